"""What ablations come to, for people."""

from layerscope.formatting import count_of, told
from layerscope.records.effects import LEVEL, AblationSummary, Effect, FeatureEffect

_SHOWN = 20
AGAINST_MEANS = (
    "The attributions are against what features are on average, and what is taken out is all that they say: "
    "these are not estimates of it."
)


def as_text(summary: AblationSummary) -> str:
    """For people."""
    if summary.agreement is not None:
        lines = [
            f"  layer {each.layer:>2}  {told(each.rank_correlation, '.3f', 'none')} ({count_of(each.pairs, 'pair')})"
            for each in summary.agreement
        ]
        how = {"gradient": "by the gradient", "relp": "by RelP's rules"}.get(summary.rule, "")
        head = f"Rank correlation of attribution {how} with exact ablation, over questions and features, by layer:"
        return "\n".join([head, *lines, *([AGAINST_MEANS] if summary.against_means else [])])
    beyond = sum(each.beyond_controls for each in summary.features)
    flipping = sum(each.flips_beyond_controls for each in summary.features)
    what = "Added" if summary.steer is not None else "Taken out"
    first = summary.features[0].effect if summary.features else None
    where = "on the half that had no part in the choice" if summary.tested == "validation" else "on all"
    lines = [
        f"Of {count_of(len(summary.features), 'feature')}, {beyond} change{'s' if beyond == 1 else ''} the margin more "
        f"than each of {'its' if beyond == 1 else 'their'} controls {'does' if beyond == 1 else 'do'} ({where}: "
        f"{count_of(first.questions if first else 0, 'question')} in {count_of(summary.groups, 'goal group')}); "
        f"{flipping or 'none'} flip{'s' if flipping == 1 else ''} more answers (q at most {LEVEL:g}).",
        f"{what}; mean change of the margin with its 95 % interval, and answers right to wrong / wrong to right:",
        *(_line(each) for each in summary.features[:_SHOWN]),
    ]
    return "\n".join(lines)


def _line(of: FeatureEffect) -> str:
    effect = of.effect
    interval, controls = effect.mean_change_interval, of.controls.items()
    sizes = ", ".join(f"{name} {told(control.effect.mean_magnitude, '.3f', 'none')}" for name, control in controls)
    parts = [
        f"  layer {of.layer:>2}  feature {of.feature_id:>6}  {told(effect.mean_change, '+.3f', 'none')}"
        + (f" [{interval.low:+.3f}, {interval.high:+.3f}]" if interval else ""),
        f"size {told(effect.mean_magnitude, '.3f', 'none')} ({sizes or 'no controls'}{_q(of.q)})",
        f"flips {_flips(effect)}"
        + (f" ({', '.join(_flips(control.effect) for _, control in controls)}{_q(of.flips_q)})" if controls else ""),
        *(["beyond its controls"] if of.beyond_controls else []),
    ]
    return "  ".join(parts)


def _flips(effect: Effect) -> str:
    return f"{effect.right_to_wrong}/{effect.wrong_to_right}"


def _q(value: float | None) -> str:
    return "" if value is None else f"; q {value:.2g}"
