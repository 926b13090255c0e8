"""What could not be tested, in words: nothing found where nothing could be is no result, and no reader may miss that.

Firing is meant throughout. A feature is tested where enough pairs can tell, on each half of the questions by itself.
"""

import numpy as np

from layerscope.analysis.columns.arrays import Bools
from layerscope.analysis.result import Analysis, ByLayer, Contrast
from layerscope.formatting import count_of


def why_untested(analysis: Analysis, contrast: Contrast) -> str:
    """Why no feature could be found to tell the sides apart; empty where one could."""
    firing, least = contrast.firing, analysis.options.min_pairs
    discovery = int(analysis.questions.discovery.sum())
    if not contrast.firing_by_layer.tested.sum():
        return f"no feature has {least} pairs of solutions in which it fires for one alone"
    if not firing.selectable.any():
        return (
            f"no feature has {least} pairs in which it fires for one solution alone on the half of the questions that "
            f"selects, which has {count_of(discovery, 'question') if discovery else 'none'}"
        )
    if is_untested(contrast):
        rest = analysis.header.questions - discovery
        return (
            f"no selected feature has {least} pairs in which it fires for one solution alone on the half of the "
            f"questions that confirms, which has {count_of(rest, 'question') if rest else 'none'}"
        )
    return ""


def is_untested(contrast: Contrast) -> bool:
    """Whether no feature could be found to tell the sides apart, whatever the numbers are."""
    firing = contrast.firing
    return not firing.selectable.any() or bool(firing.selected.any() and not firing.confirmable.any())


def seen_without_halves(contrast: Contrast) -> str:
    """What the test over all pairs says of features that the halves could not."""
    significant = int(contrast.firing_by_layer.significant.sum())
    if not significant:
        return ""
    are = "is" if significant == 1 else "are"
    told = f"{count_of(significant, 'feature')} {are} significant"
    return f" Over all questions together {told}, which no other half confirms."


def partly_untested(contrast: Contrast) -> str:
    """What of a contrast that could be tested could not; empty where nothing is left out."""
    by_layer, firing = contrast.firing_by_layer, contrast.firing
    layers = int((by_layer.selectable == 0).sum())
    lost = int((firing.selected & ~firing.confirmable).sum())
    parts = [
        f"{count_of(layers, 'layer')} without a feature that has enough pairs" if layers else "",
        f"{count_of(lost, 'selected feature')} with too few pairs to be confirmed" if lost else "",
    ]
    told = " and ".join(filter(None, parts))
    return f" Not tested: {told}." if told else ""


def nothing_selected(contrast: Contrast) -> str:
    """What an empty chart of selected features says."""
    if contrast.firing.selected.any():
        return "not tested: too few pairs on the validation half"
    return "no feature is selected" if contrast.firing.selectable.any() else "not tested: too few pairs on one half"


def selected_in(by_layer: ByLayer, index: int) -> str:
    """How many features a layer has that are selected; a dash where none could be."""
    return f"{by_layer.selected[index]:,}" if by_layer.selectable[index] else "–"


def confirmed_in(by_layer: ByLayer, index: int) -> str:
    """How many of these are confirmed; a dash where none could be."""
    if not by_layer.selectable[index] or (by_layer.selected[index] and not by_layer.confirmable[index]):
        return "–"
    return f"{by_layer.confirmed[index]:,}"


def tested_layers(contrast: Contrast) -> Bools:
    """[L] which layers could show a difference on the validation half; one without selected features shows none."""
    by_layer = contrast.firing_by_layer
    tested: Bools = (by_layer.selectable > 0) & ((by_layer.selected == 0) | ~np.isnan(contrast.held_out.auroc))
    return tested
