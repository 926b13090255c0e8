"""From feature lists, some of them cut at k, to pairs of which nothing is guessed.

A list that is cut shows every feature above its smallest activation and hides what is below. So the two solutions of a
question are compared at one limit, the larger of their lists' limits (0 for a list that is not cut): above it both
lists are whole. To take each list as far as it goes would let the one that is cut lower, or not at all, show features
that the other hides, and all the more if one side has more active features than the other. (The list that sets the
limit loses the one feature that sets it: of k features one, whichever it is.)
"""

from dataclasses import dataclass

import numpy as np

from layerscope.analysis import statistics
from layerscope.analysis.arrays import Bools, Floats, Ints
from layerscope.analysis.lists import FeatureLists
from layerscope.analysis.result import Layers


@dataclass(frozen=True)
class LayerPairs:
    """The features of one layer that fire above the limit in each pair, for at least one of its sides.

    Shapes: `M` feature x pair, ordered by feature, then by pair; `F` features; `Q` pairs.
    """

    feature_id: Ints  # [F] ascending
    listed: Ints  # [F] lists that name it, below the limit too
    feature: Ints  # [M] index into `feature_id`
    pair: Ints  # [M] index of the question
    positive: Floats  # [M] activation for the positive solution, 0 for "at most the limit"
    negative: Floats  # [M] the same for the negative one
    whole: Bools  # [Q] neither list is cut: the limit is 0

    @property
    def firing(self) -> Ints:
        """[M] 1 if only the positive side fires, -1 if only the negative one does, 0 if both do."""
        return (self.positive > 0).astype(np.int64) - (self.negative > 0)

    def restricted(self, features: Bools) -> "LayerPairs":
        """Of some features alone, [F]."""
        kept = features[self.feature]
        return LayerPairs(
            self.feature_id[features],
            self.listed[features],
            (np.cumsum(features) - 1)[self.feature[kept]],
            self.pair[kept],
            self.positive[kept],
            self.negative[kept],
            self.whole,
        )

    def jaccards(self) -> Floats:
        """[Q] |both fire| / |either fires|; NaN where nothing does."""
        either = np.bincount(self.pair, minlength=len(self.whole))
        both = np.bincount(self.pair[self.firing == 0], minlength=len(self.whole))
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def pair_up(lists: FeatureLists) -> LayerPairs:
    """Compares the two sides of every pair above its limit."""
    n_pairs = len(lists.listed)
    limit = list_limits(lists).max(axis=1, initial=0)  # [Q]
    cell = np.repeat(np.arange(2 * n_pairs), lists.listed.ravel())  # [E]
    shown = lists.activation > limit[cell // 2]
    feature_id, code, listed = np.unique(lists.feature_id, return_inverse=True, return_counts=True)
    cell, code, activation = cell[shown], code[shown], lists.activation[shown]
    order = np.argsort(code * (2 * n_pairs) + cell)
    cell, code, activation = cell[order], code[order], activation[order]
    pair, side = cell // 2, cell % 2
    first = np.ones(len(cell), dtype=bool)  # of the one or two entries of a feature in a pair
    first[1:] = (pair[1:] != pair[:-1]) | (code[1:] != code[:-1])
    place = np.cumsum(first) - 1
    sides = np.zeros((2, int(first.sum())))
    sides[side, place] = activation
    return LayerPairs(feature_id, listed, code[first], pair[first], sides[0], sides[1], limit == 0)


def list_limits(lists: FeatureLists) -> Floats:
    """Above which activation each list is whole, as `listed` is shaped: its smallest if it is cut, 0 if it is not."""
    listed = lists.listed.ravel()
    limits = np.zeros(len(listed))
    cut = lists.active.ravel() > listed
    ends = np.cumsum(listed)
    limits[cut & (listed == 0)] = np.inf
    there = cut & (listed > 0)
    limits[there] = lists.activation[ends[there] - 1]
    return limits.reshape(lists.listed.shape)


def layer_row(layer: int, lists: FeatureLists, pairs: LayerPairs, group: Ints) -> Layers:
    """What holds of a layer whatever the contrast."""
    active, jaccards = lists.active, pairs.jaccards()
    of_both = active.mean(axis=1) if len(active) else np.zeros(0)
    row = (
        layer,
        statistics.mean(active[:, 0]),
        statistics.mean(active[:, 1]),
        statistics.mean(active > lists.listed),
        statistics.mean(jaccards[jaccards >= 0]),
    )
    per_question = active[:, 0], active[:, 1], of_both, jaccards
    intervals = (statistics.mean_interval(values, group) for values in per_question)
    return Layers(*(np.array([value]) for value in (*row, *intervals)))
