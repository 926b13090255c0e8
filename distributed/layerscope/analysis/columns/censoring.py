"""From feature lists, some of them cut at k, to pairs of which nothing is guessed.

A list that is cut shows every feature above its smallest activation and hides what is below. So the two solutions of a
question are compared at one limit, the larger of their lists' limits (0 for a list that is not cut): above it both
lists are whole. To take each list as far as it goes would let the one that is cut lower, or not at all, show features
that the other hides, and all the more if one side has more active features than the other. (The list that sets the
limit loses the one feature that sets it: of k features one, whichever it is.)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.lists import FeatureLists, Lists
from layerscope.analysis.result import Layers
from layerscope.analysis.testing import statistics

PART = 1 << 20
"""Entries of lists whose pairs are held at once; a feature that has more is alone."""


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

    def parts(self, _among: Ints | None = None) -> Iterator["LayerPairs"]:
        """As those of `PairedLists`: all at once."""
        yield self


class PairedLists:
    """The pairs of one layer, some features after the others: what is held does not grow with the features listed."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self._limit = np.zeros(len(lists.listed))  # [Q]
        self._counts = np.zeros(0, dtype=np.int64)  # of every feature_id the lists that name it
        for first, some in lists.stretches():
            self._limit[first : first + len(some.listed)] = list_limits(some).max(axis=1, initial=0)
            counts = np.bincount(some.feature_id, minlength=len(self._counts))
            counts[: len(self._counts)] += self._counts
            self._counts = counts
        self.whole = self._limit == 0
        self._only: LayerPairs | None = None

    def parts(self, among: Ints | None = None) -> Iterator[LayerPairs]:
        """Features in ascending order, each with all its pairs; of a layer with few features all at once.

        Args:
            among: of these features alone, some of which may be in no list; there may be others. Of all if None.
        """
        counts = self._counts
        if among is not None:
            counts = np.zeros_like(self._counts)
            known = among[among < len(counts)]  # the others are in no list
            counts[known] = self._counts[known]
        ends = np.cumsum(counts)
        if self._counts.sum() <= PART:
            self._only = self._only or self._pairs(np.flatnonzero(self._counts))
            yield self._only
            return
        first = 0
        while first < len(ends):
            before = ends[first - 1] if first else 0
            last = max(int(np.searchsorted(ends, before + PART, "right")), first + 1)
            feature_id = first + np.flatnonzero(counts[first:last])
            if len(feature_id) or last == len(ends):
                yield self._pairs(feature_id)
            first = last

    def _pairs(self, feature_id: Ints) -> LayerPairs:
        """Of these features, ascending."""
        code_of = np.full(len(self._counts), -1)
        code_of[feature_id] = np.arange(len(feature_id))
        found = list[tuple[Ints, Ints, NDArray[np.float32]]]()
        for first, some in self._lists.stretches():
            code = code_of[some.feature_id]
            cell = np.repeat(np.arange(2 * len(some.listed)), some.listed.ravel()) + 2 * first
            shown = np.flatnonzero((code >= 0) & (some.activation > self._limit[cell // 2]))
            found.append((code[shown], cell[shown], some.activation[shown]))
        code, cell, activation = map(np.concatenate, zip(*found, strict=True))
        return _side_by_side(feature_id, self._counts[feature_id], code, cell, activation, self.whole)


Paired = LayerPairs | PairedLists


def pair_up(lists: FeatureLists) -> LayerPairs:
    """Compares the two sides of every pair above its limit, all features at once."""
    limit = list_limits(lists).max(axis=1, initial=0)  # [Q]
    cell = np.repeat(np.arange(2 * len(lists.listed)), lists.listed.ravel())  # [E]
    feature_id, code, listed = np.unique(lists.feature_id, return_inverse=True, return_counts=True)
    shown = lists.activation > limit[cell // 2]
    return _side_by_side(feature_id, listed, code[shown], cell[shown], lists.activation[shown], limit == 0)


def _side_by_side(
    feature_id: Ints, listed: Ints, code: Ints, cell: Ints, activation: NDArray[np.float32], whole: Bools
) -> LayerPairs:
    """
    Args:
        code, cell, activation: of every entry above the limit the feature, the list and how strong it is.
    """
    order = np.argsort(code * (2 * len(whole)) + cell)
    cell, code, activation = cell[order], code[order], activation[order]
    pair, side = cell // 2, cell % 2
    first = np.ones(len(cell), dtype=bool)  # of the one or two entries of a feature in a pair
    first[1:] = (pair[1:] != pair[:-1]) | (code[1:] != code[:-1])
    place = np.cumsum(first) - 1
    sides = np.zeros((2, int(first.sum())))
    sides[side, place] = activation
    return LayerPairs(feature_id, listed, code[first], pair[first], sides[0], sides[1], whole)


def jaccards(pairs: Paired) -> Floats:
    """[Q] |both fire| / |either fires|; NaN where nothing does."""
    either, both = np.zeros((2, len(pairs.whole)), dtype=np.int64)
    for part in pairs.parts():
        either += np.bincount(part.pair, minlength=len(either))
        both += np.bincount(part.pair[part.firing == 0], minlength=len(both))
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


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


def layer_row(layer: int, lists: Lists, pairs: Paired, group: Ints) -> Layers:
    """What holds of a layer whatever the contrast."""
    active, overlap = lists.active, jaccards(pairs)
    of_both = active.mean(axis=1) if len(active) else np.zeros(0)
    row = (
        layer,
        statistics.mean(active[:, 0]),
        statistics.mean(active[:, 1]),
        statistics.mean(active > lists.listed),
        statistics.mean(overlap[overlap >= 0]),
    )
    per_question = active[:, 0], active[:, 1], of_both, overlap
    intervals = (statistics.mean_interval(values, group) for values in per_question)
    return Layers(*(np.array([value]) for value in (*row, *intervals)))
