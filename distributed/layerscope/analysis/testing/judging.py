"""What a score of solutions comes to on the half that chose nothing, for every contrast that has one."""

import numpy as np

from layerscope.analysis.baselines.split import Split
from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.testing.held_out import HeldOut
from layerscope.analysis.testing.statistics import auroc, auroc_interval, group_weights, paired_superiority

Judged = tuple[int, float, float, float, float, float]
"""Of a layer the numbers of `HeldOut`, in its order."""
NOTHING: Judged = (0, *[float("nan")] * 5)  # type: ignore[assignment]  # of a layer without selected features


def judged(features: int, first: Floats, second: Floats, group: Ints, split: Split | None) -> Judged:
    """
    Args:
        features: how many the scores are made of.
        first, second: [H] scores of the sides of every pair of the validation half.
        group: [H] the goal group of each.
        split: whose draws make the interval; NaN without one.
    """
    weight, bounds = group_weights(group), (float("nan"), float("nan"))
    if split is not None:
        bounds = auroc_interval(first, second, weight, np.searchsorted(split.judging, group), split.draws)
    return features, *paired_superiority(first, second, group), auroc(first, second, weight), *bounds


def held_out_of(layers: list[Judged], first_higher: list[Bools] | None = None) -> HeldOut:
    """Of all layers together."""
    counts, *columns = np.array(layers).T
    higher = () if first_higher is None else (np.array(first_higher),)
    return HeldOut(counts.astype(np.int64), *columns, *higher)
