"""What depth does to how well features tell the sides apart, in words."""

import numpy as np
from scipy import stats

from layerscope.analysis.result import Analysis, Contrast
from layerscope.analysis.testing.draws import DRAWS
from layerscope.analysis.testing.held_out import HeldOut
from layerscope.formatting import count_of, listed
from layerscope.report.words.untested import is_untested, tested_layers

_FEWEST = 5  # layers with an AUROC, to speak of a course
_STEADY = 0.5  # rank correlation from which on there is one


def with_depth(analysis: Analysis, contrast: Contrast) -> str:
    """How well the selected features of a layer tell the sides apart, from early layers to late ones.

    A clause that follows a sentence; empty where no layer's is known.
    """
    auroc, layers = contrast.held_out.auroc, analysis.layers.layer
    known = np.flatnonzero(~np.isnan(auroc))
    if not len(known):
        return ""
    rounded = np.round(auroc[known], 2)
    highest = rounded.max()
    best = known[rounded == highest]
    if len(known) == 1:
        return f"; their held-out AUROC in layer {layers[best[0]]} is {highest:.2f}"
    if highest <= 0.5:
        return f"; held out, they do so in no layer, with an AUROC of {highest:.2f} at most"
    if len(best) == len(known):
        return f"; they do so alike in all of these layers, with a held-out AUROC of {highest:.2f}"
    where = f"layer{'s' if len(best) > 1 else ''} {listed([str(layer) for layer in layers[best]])}"
    peak = f"best in {where}, with a held-out AUROC of {highest:.2f}"
    if len(known) < _FEWEST:
        return f"; they do so {peak}"
    trend = depth_correlation(analysis, contrast)
    place = float(np.searchsorted(layers, layers[best]).mean() / max(len(layers) - 1, 1))  # 0 is the first, 1 the last
    if abs(trend) < _STEADY or (place - 0.5) * trend < 0:
        return f"; how well they do so follows no steady course with depth, and is {peak}"
    course = "the deeper the layer, the better" if trend > 0 else "the deeper the layer, the less"
    return f"; {course} they do so, {peak}"


def explained(analysis: Analysis, contrast: Contrast) -> str:
    """What the AUROC that the answer names means, and how sure it is; empty where it names none."""
    held_out = contrast.held_out
    if np.isnan(held_out.auroc).all() or not contrast.firing.confirmed.any() or is_untested(contrast):
        return ""
    best = int(np.nanargmax(np.round(held_out.auroc, 2)))  # the first of those that print alike, as above
    layer, validation = analysis.layers.layer[best], int((~analysis.questions.discovery).sum())
    selected, one = count_of(int(held_out.features[best]), "feature"), held_out.features[best] == 1
    bounds = auroc_interval(held_out, best)
    sure = f"95 %: {bounds}, from {DRAWS:,} draws of the goals" if bounds else "too few goals for an interval"
    return (
        f"AUROC {held_out.auroc[best]:.2f} ({sure}) means: layer {layer} selected {selected} on one half of the "
        f"questions. Shown any {contrast.first} solution and any {contrast.second} one of the other "
        f"{count_of(validation, 'question')}, {'it speaks' if one else 'they speak'} for the {contrast.first} one in "
        f"{100 * held_out.auroc[best]:.0f} % of cases, a tie counting half; chance gives 50 %."
    )


def auroc_interval(held_out: HeldOut, index: int) -> str:
    """Of a layer's AUROC; empty where there is none."""
    low, high = held_out.auroc_low[index], held_out.auroc_high[index]
    return "" if np.isnan(low) else f"{low:.2f} to {high:.2f}"


def depth_correlation(analysis: Analysis, contrast: Contrast) -> float:
    """Spearman's rank correlation of held-out AUROC with depth.

    A layer that was tested, and has no selected feature, counts as 0.5; one that could not be tested does not count.
    """
    tested = tested_layers(contrast)
    if tested.sum() < 2:
        return float("nan")
    auroc = np.nan_to_num(contrast.held_out.auroc[tested], nan=0.5)
    if np.ptp(auroc) == 0:
        return 0.0
    return float(stats.spearmanr(analysis.layers.layer[tested], auroc).statistic)
