"""What the numbers say, in words: titles, answers, warnings. Every sentence is computed; nothing is drawn here."""

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from layerscope.analysis.result import Analysis, Contrast, Header, LengthBin, Proportion
from layerscope.formatting import count_of, ranges


def percent(share: float, digits: int = 1) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign; a dash for what is not defined."""
    if math.isnan(value):
        return "–"
    rounded = f"{value:,.{digits}f}"
    return rounded.replace("-", "−") if float(rounded.replace(",", "")) else rounded.lstrip("-")


def odds(log_odds: float) -> str:
    """As people say it: 7.9:1, 1:2.0."""
    ratio = math.exp(min(abs(log_odds), 50))
    said = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
    return f"{said}:1" if log_odds >= 0 else f"1:{said}"


def interval(proportion: Proportion) -> str:
    return f"{percent(proportion.low)[:-2]} to {percent(proportion.high)}" if proportion.total else "no question scored"


def verdict(analysis: Analysis) -> str:
    """The answer to the page's question, in a line."""
    header = analysis.header
    if not header.questions:
        return "Not known yet: no question is scored."
    layers = len(analysis.layers.layer)
    found = [
        int((contrast.firing_by_layer.confirmed > 0).sum())
        for contrast in (analysis.right_wrong, analysis.chosen_rejected)
    ]
    so_far = "" if header.finished else "So far: "
    if header.standin:
        so_far = "For the stand-in, not for Gemma: "
    if not any(found):
        return f"{so_far}none found in {count_of(layers, 'layer')}."
    return (
        f"{so_far}{f'yes, in {found[0]} of' if found[0] else 'none found in'} {count_of(layers, 'layer')}. "
        f"Between the solution that the model chooses and the one it rejects: "
        f"{f'in {found[1]} of {layers}' if found[1] else 'none found'}."
    )


def answer(analysis: Analysis, contrast: Contrast) -> str:
    """Whether features tell the sides apart, and what depth does to that."""
    if not analysis.header.questions:
        return "No question is scored yet, so there is nothing to compare."
    tested, confirmed = contrast.firing_by_layer.tested, contrast.firing_by_layer.confirmed
    total, with_any = int(confirmed.sum()), int((confirmed > 0).sum())
    layers = len(analysis.layers.layer)
    if not tested.sum():
        return (
            f"Too few questions to tell: no feature has {analysis.options.min_pairs} pairs of solutions "
            f"in which it fires for one alone."
        )
    if not total:
        return (
            f"No difference found: of {count_of(int(tested.sum()), 'feature')} tested in "
            f"{count_of(layers, 'layer')}, none is confirmed to fire more often for the {contrast.first} solution "
            f"or for the {contrast.second} one."
        )
    where = f"in {with_any} of {layers} layers" if layers > 1 else f"in layer {analysis.layers.layer[0]}"
    for_first = int((contrast.firing.confirmed & (contrast.firing.validation.z > 0)).sum())
    found = (
        f"{count_of(total, 'feature')} {where} {'tells' if total == 1 else 'tell'} {contrast.first} from "
        f"{contrast.second}: {for_first:,} {'fires' if for_first == 1 else 'fire'} more often for the {contrast.first} "
        f"solution, {total - for_first:,} for the {contrast.second} one"
    )
    return f"{found}{_with_depth(analysis, contrast)}."


def _with_depth(analysis: Analysis, contrast: Contrast) -> str:
    """How well the selected features of a layer tell the sides apart, from early layers to late ones."""
    auroc, layers = contrast.held_out.auroc, analysis.layers.layer
    known = np.flatnonzero(~np.isnan(auroc))
    if not len(known):
        return ""
    best = known[np.argmax(auroc[known])]
    peak = f"best in layer {layers[best]}, with a held-out AUROC of {auroc[best]:.2f}"
    if len(known) < 5:
        return f"; they do so {peak}"
    trend = depth_correlation(analysis, contrast)
    if abs(trend) < 0.5:
        return f"; how well they do so follows no steady course with depth, and is {peak}"
    course = "the deeper the layer, the better" if trend > 0 else "the deeper the layer, the less"
    return f"; {course} they do so, {peak}"


def depth_correlation(analysis: Analysis, contrast: Contrast) -> float:
    """Spearman's rank correlation of held-out AUROC with depth; a layer without selected features counts as 0.5."""
    if len(analysis.layers.layer) < 2:
        return float("nan")
    auroc = np.nan_to_num(contrast.held_out.auroc, nan=0.5)
    if np.ptp(auroc) == 0:
        return 0.0
    return float(stats.spearmanr(analysis.layers.layer, auroc).statistic)


def said_of_layer(analysis: Analysis, contrast: Contrast, index: int) -> str:
    """One layer in a line."""
    firing, magnitude, held_out = contrast.firing_by_layer, contrast.magnitude_by_layer, contrast.held_out
    parts = [
        f"Layer {analysis.layers.layer[index]}: {count_of(int(firing.confirmed[index]), 'feature')} confirmed to fire "
        f"for one solution more often, of {firing.tested[index]:,} tested",
        f"{magnitude.confirmed[index]:,} to differ in strength",
    ]
    if not math.isnan(held_out.auroc[index]):
        parts.append(f"held-out AUROC {held_out.auroc[index]:.2f}")
    return ", ".join([*parts, f"Jaccard {number(analysis.layers.jaccard[index])}"])


def map_title(contrast: Contrast) -> str:
    firing = contrast.firing
    selected, confirmed = int(firing.selected.sum()), int(firing.confirmed.sum())
    agree = np.sign(firing.validation.z) == np.sign(firing.discovery.z)
    tested = ~np.isnan(firing.discovery.p) & (firing.discovery.z != 0) & (firing.validation.z != 0)
    if not tested.any():
        return "No feature has enough pairs on the discovery half to be tested"
    if not selected:
        return (
            f"No feature passes on one half of the questions; {percent(agree[tested].mean(), 0)} of those tested "
            f"point the same way on the other half, and chance alone gives about 50 %"
        )
    same = int((firing.selected & agree).sum())
    return (
        f"{count_of(selected, 'feature')} {'passes' if selected == 1 else 'pass'} on one half of the questions; "
        f"on the other half {same:,} {'points' if same == 1 else 'point'} the same way and {confirmed:,} "
        f"{'is' if confirmed == 1 else 'are'} confirmed"
    )


def warnings(header: Header) -> Iterator[str]:
    """What a reader has to know before believing a number."""
    if header.standin:
        yield "These are stand-in weights, small and trained on generated text. Nothing here says anything about Gemma."
    if not header.finished:
        done = header.questions + header.errors
        yield (
            f"Unfinished run: {done:,} of {count_of(header.planned, 'question')}. Every number is of these alone; they "
            f"are no random sample, because a run goes from long questions to short ones."
        )
    if header.errors:
        left_out = "is" if header.errors == 1 else "are"
        yield f"{count_of(header.errors, 'question')} could not be scored and {left_out} left out."
    if header.not_canonical:
        yield (
            f"Layers {ranges(header.not_canonical)}: not the canonical SAE. Its features have other numbers than those "
            f"on Neuronpedia's pages, so they are not linked."
        )
    if header.cut_share > 0:
        yield (
            f"Lists cut at {header.top_k}: in {percent(header.cut_share)} of solution × layer cells more features are "
            f"active than are listed. What is not listed there is unknown, and is not counted as silent."
        )


def accuracy_title(header: Header) -> str:
    if not header.questions:
        return "No question is scored yet"
    above_chance = header.accuracy.low > 0.5
    below_chance = header.accuracy.high < 0.5
    versus = "better than chance" if above_chance else "worse than chance" if below_chance else "no better than chance"
    return f"The model prefers the right solution in {percent(header.accuracy.share)} of questions: {versus}"


def margin_title(analysis: Analysis) -> str:
    margin = analysis.questions.margin
    if not len(margin):
        return "No margins yet"
    low, high = np.quantile(margin, [0.25, 0.75])
    wrong = int((~analysis.questions.correct).sum())
    return (
        f"Half of the margins lie between {number(low, 1)} and {number(high, 1)} nats; "
        f"for {count_of(wrong, 'question')} the wrong solution is preferred"
    )


def length_title(bins: tuple[LengthBin, ...]) -> str:
    if len(bins) < 2:
        return "All questions have about the same difference in length"
    first, last = bins[0].accuracy, bins[-1].accuracy
    shares = (
        f"accuracy is {percent(first.share, 0)} where the right solution is shortest against the wrong one, "
        f"{percent(last.share, 0)} where it is longest"
    )
    apart = first.low > last.high or last.low > first.high
    return f"Length {'sways' if apart else 'hardly sways'} the model: {shares}"


def strata_title(contrast: Contrast) -> str:
    confirmed = int(contrast.firing.confirmed.sum())
    if not confirmed:
        return f"{contrast.name.capitalize()}: nothing is confirmed, so there is nothing to lose"
    kept = {stratum.name: stratum.firing.kept for stratum in contrast.strata}
    return (
        f"{contrast.name.capitalize()}: of {count_of(confirmed, 'feature')} confirmed to fire more often, "
        f"{kept['same final token']:,} survive where both solutions end in the same token, "
        f"{kept['full stop']:,} where both end in a full stop, "
        f"{kept['without dense features']:,} without dense features"
    )


STRATA = {
    "same final token": "both solutions end in the same token",
    "full stop": "both solutions end in a full stop",
    "lists not cut": "neither list is cut at k",
    "without dense features": "features in more than 10 % of lists left out",
}
"""What a stratum is, by its name."""
