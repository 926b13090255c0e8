"""What the comparison of features with baselines comes to, in words. Every sentence is computed; nothing is drawn."""

import math
from collections.abc import Sequence

import numpy as np

from layerscope.analysis.baselines.result import NAMES, OF_FEATURES, Baseline, Comparison
from layerscope.analysis.result import Analysis
from layerscope.report.words.sentences import number, percent


def name_of(key: str, comparison: Comparison) -> str:
    """Of a baseline; words are no tokens where the file has none."""
    return "bag of words" if key == "words" and not comparison.tokens else NAMES[key]


def compared(analysis: Analysis) -> str:
    """What the comparison comes to, in plain words, for the top of the page; empty where there is nothing yet."""
    comparison = analysis.comparison
    if is_control(analysis):
        return "Beside baselines: nothing to compare, since before the solution there is nothing to tell the two by."
    if comparison.why:
        return f"Beside baselines: not known, because {comparison.why}." if analysis.header.questions else ""
    best = comparison.of(comparison.best)
    assert best is not None, "the features are measured whatever else is"
    others = [each for each in comparison.baselines if each.key not in OF_FEATURES and known(each)]
    where = f"a {NAMES[best.key]} in layer {analysis.layers.layer[best.chosen]}"
    told = f"AUROC {_auroc(best)}, 95 %: {bounds(best)}; {where}"
    said = _beside(best, told, others, comparison)
    return f"Beside baselines: {said}{_not_compared(comparison)}"


def _beside(best: Baseline, told: str, others: Sequence[Baseline], comparison: Comparison) -> str:
    beaten = [each for each in others if tells(best) and each.ahead is not None and each.ahead.low > 0]
    rivals = [each for each in others if tells(each) and each not in beaten]
    better = [each for each in rivals if each.ahead is not None and each.ahead.high < 0]
    level = [each for each in rivals if each not in better]
    unclear = [each for each in others if each not in beaten and each not in rivals]
    if not tells(best):
        head = f"probes on features are not shown to tell right from wrong on the half that chose nothing ({told})"
        if not rivals:
            return f"{head}, and neither is anything else: {_listed(others, comparison)}."
        return f"{head}, so they beat nothing that they are compared with. {_alone(better, level, comparison)}"
    head = f"probes on features tell right from wrong on the half that chose nothing ({told})"
    whether = f"whether they are better than {_listed(unclear, comparison)} cannot be told." if unclear else ""
    if beaten:
        parts = [f"{head}, better than {_listed(beaten, comparison)}.", _sentence(whether)]
    else:
        parts = [f"{head}, but {whether or 'they beat nothing that they are compared with.'}"]
    return " ".join(filter(None, [*parts, _alone(better, level, comparison)]))


def _alone(better: Sequence[Baseline], level: Sequence[Baseline], comparison: Comparison) -> str:
    """Of what is not beaten, that it does without features what they do."""
    said = [
        f"{_listed(each, comparison)} alone {'does' if len(each) == 1 else 'do'} {how}"
        for each, how in ((better, "better"), (level, "as well, as far as these pairs can tell"))
        if each
    ]
    return f"{_sentence('; '.join(said))}." if said else ""


def _not_compared(comparison: Comparison) -> str:
    needs: dict[str, list[str]] = {}
    for key, need in comparison.missing:
        needs.setdefault(need, []).append(name_of(key, comparison))
    return f" Not compared: {'; '.join(f'{_and(names)} ({need})' for need, names in needs.items())}." if needs else ""


def hidden_title(analysis: Analysis) -> str:
    """Hidden knowledge: what a probe ranks right that the likelihood does not (arXiv:2503.15299)."""
    comparison, hidden = analysis.comparison, analysis.comparison.hidden
    assert hidden is not None, "asked of a comparison"
    probe, likelihood = comparison.of(hidden.probe), comparison.of("likelihood")
    assert probe is not None and likelihood is not None, "both are measured whatever else is"  # noqa: PT018
    ours, model = float(probe.measured.ranked[probe.chosen]), float(likelihood.measured.ranked[0])
    p = float(hidden.p[probe.chosen])
    told = (
        f"the {NAMES[probe.key]} in layer {analysis.layers.layer[probe.chosen]} ranks {percent(ours)} of the held-out "
        f"pairs right, the log-likelihood {percent(model)} (McNemar’s exact p {p_value(p)})"
    )
    if not p <= analysis.options.level:
        return f"Hidden knowledge: no difference is shown; {told}"
    return f"Hidden knowledge: {'more' if ours > model else 'less'} is found inside than is said; {told}"


def said_of_layer_beside(analysis: Analysis, index: int) -> str:
    """One layer in a line."""
    comparison = analysis.comparison
    parts = [
        f"{name_of(each.key, comparison)} {number(float(each.measured.auroc[index if each.by_depth else 0]))}"
        for each in comparison.baselines
        if not math.isnan(each.measured.auroc[index if each.by_depth else 0])
    ]
    return f"Layer {analysis.layers.layer[index]}, AUROC: {', '.join(parts)}"


def is_control(analysis: Analysis) -> bool:
    return analysis.options.reading == "prompt"


def p_value(p: float) -> str:
    return "–" if math.isnan(p) else f"{p:.2g}" if p >= 0.0001 else "< 0.0001"


def known(baseline: Baseline) -> bool:
    return not math.isnan(baseline.measured.auroc[baseline.chosen])


def tells(baseline: Baseline) -> bool:
    """Whether its interval lies above chance."""
    return bool(baseline.measured.auroc_low[baseline.chosen] > 0.5)


def bounds(baseline: Baseline) -> str:
    measured, chosen = baseline.measured, baseline.chosen
    return f"{number(float(measured.auroc_low[chosen]))} to {number(float(measured.auroc_high[chosen]))}"


def _auroc(baseline: Baseline) -> str:
    return number(float(baseline.measured.auroc[baseline.chosen]))


def _listed(baselines: Sequence[Baseline], comparison: Comparison) -> str:
    """The best first."""
    ordered = sorted(baselines, key=lambda each: -np.round(each.measured.auroc[each.chosen], 9))
    return _and([f"{name_of(each.key, comparison)} ({_auroc(each)})" for each in ordered])


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:]
