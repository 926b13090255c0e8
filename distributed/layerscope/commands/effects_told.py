"""What ablations come to, for people."""

from layerscope.formatting import count_of, told
from layerscope.records.effects import AblationSummary, FeatureEffect

_SHOWN = 20


def as_text(summary: AblationSummary) -> str:
    """For people."""
    if summary.agreement is not None:
        lines = [
            f"  layer {each.layer:>2}  {told(each.rank_correlation, '.3f', 'none')} ({count_of(each.pairs, 'pair')})"
            for each in summary.agreement
        ]
        return "\n".join(
            ["Rank correlation of attribution with exact ablation, over questions and features, by layer:", *lines]
        )
    beyond = sum(each.beyond_controls for each in summary.features)
    what = "Added" if summary.steer is not None else "Taken out"
    first = summary.features[0].effect if summary.features else None
    where = "on the half that had no part in the choice" if summary.tested == "validation" else "on all"
    lines = [
        f"Of {count_of(len(summary.features), 'feature')}, {beyond} change{'s' if beyond == 1 else ''} the margin more "
        f"than each of {'its' if beyond == 1 else 'their'} controls {'does' if beyond == 1 else 'do'} ({where}: "
        f"{count_of(first.questions if first else 0, 'question')} in {count_of(summary.groups, 'goal group')}).",
        f"{what}; mean change of the margin with its 95 % interval, and answers right to wrong / wrong to right:",
        *(_line(each) for each in summary.features[:_SHOWN]),
    ]
    return "\n".join(lines)


def _line(of: FeatureEffect) -> str:
    effect = of.effect
    interval = effect.mean_change_interval
    beside = ", ".join(
        f"{name} {told(control.effect.mean_magnitude, '.3f', 'none')}" for name, control in of.controls.items()
    )
    between = f" [{interval.low:+.3f}, {interval.high:+.3f}]" if interval else ""
    return (
        f"  layer {of.layer:>2}  feature {of.feature_id:>6}  {told(effect.mean_change, '+.3f', 'none')}{between}  size "
        f"{told(effect.mean_magnitude, '.3f', 'none')} ({beside or 'no controls'})  flips {effect.right_to_wrong}/"
        f"{effect.wrong_to_right} of {effect.questions}  p {told(effect.p, '.2g', 'none')}"
        f"{'  beyond its controls' if of.beyond_controls else ''}"
    )
