"""From feature lists, some of them cut at k, to pairs of which nothing is guessed.

A list that is cut shows every feature above its smallest activation and hides what is below. So the two solutions of a
question are compared at one limit, the larger of their lists' limits (0 for a list that is not cut): above it both
lists are whole. To take each list as far as it goes would let the one that is cut lower, or not at all, show features
that the other hides, and all the more if one side has more active features than the other. (The list that sets the
limit loses the one feature that sets it: of k features one, whichever it is.)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.columns.lists import FeatureLists, Lists
from layerscope.analysis.columns.spilling import Rows
from layerscope.analysis.result import Layers
from layerscope.analysis.testing import statistics

PART = 1 << 20
"""Entries of lists whose pairs are held at once; a feature that has more is alone."""
_ENTRY = np.dtype([("feature_id", np.int32), ("cell", np.int32), ("activation", np.float32)])


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
        self._by_feature: _ByFeature | None = None

    def parts(self, among: Ints | None = None) -> Iterator[LayerPairs]:
        """Features in ascending order, each with all its pairs; of a layer with few features all at once.

        Args:
            among: of these features alone, some of which may be in no list; there may be others. Of all if None.
        """
        if self._counts.sum() <= PART:
            self._only = self._only or self._pairs(np.flatnonzero(self._counts))
            yield self._only
            return
        counts = self._counts
        if among is not None:
            counts = np.zeros_like(self._counts)
            known = among[among < len(counts)]  # the others are in no list
            counts[known] = self._counts[known]
        elif self._by_feature is None:
            self._by_feature = _ByFeature(_edges(counts), counts, map(self._shown, self._lists.stretches()))
        for first, last in pairwise(_edges(counts)):
            feature_id = first + np.flatnonzero(counts[first:last])
            if len(feature_id) or last == len(counts):
                yield self._pairs(feature_id)

    def _shown(self, stretch: tuple[int, FeatureLists]) -> "_Shown":
        """What is above its limit in the lists of some questions."""
        first, some = stretch
        cell = np.repeat(np.arange(2 * len(some.listed)), some.listed.ravel()) + 2 * first
        shown = some.activation > self._limit[cell // 2]
        return _Shown(some.feature_id[shown], cell[shown], some.activation[shown])

    def _pairs(self, feature_id: Ints) -> LayerPairs:
        """Of these features, ascending."""
        code_of = np.full(len(self._counts), -1)
        code_of[feature_id] = np.arange(len(feature_id))
        sorted_out = self._by_feature
        entries = map(self._shown, self._lists.stretches()) if sorted_out is None else sorted_out.of(feature_id)
        found = list[tuple[Ints, Ints, NDArray[np.float32]]]()
        for some in entries:
            code = code_of[some.feature_id]
            wanted = np.flatnonzero(code >= 0)
            found.append((code[wanted], some.cell[wanted], some.activation[wanted]))
        code, cell, activation = map(np.concatenate, zip(*found, strict=True))
        return _side_by_side(feature_id, self._counts[feature_id], code, cell, activation, self.whole)


class _Shown(NamedTuple):
    """Entries of lists that are above their pair's limit, [E]."""

    feature_id: Ints
    cell: Ints  # the list: of the pair's two
    activation: NDArray[np.float32]


def _edges(counts: Ints) -> list[int]:
    """From which feature to before which other one parts go that have about `PART` entries."""
    ends, edges = np.cumsum(counts), [0]
    while edges[-1] < len(ends):
        before = ends[edges[-1] - 1] if edges[-1] else 0
        edges.append(max(int(np.searchsorted(ends, before + PART, "right")), edges[-1] + 1))
    return edges


class _ByFeature:
    """The entries of a layer sorted into parts, in a file without a name: a part is read without the others.

    Else every part would be looked for in all lists, which takes with the questions' number its square.
    """

    def __init__(self, edges: Sequence[int], counts: Ints, entries: Iterable[_Shown]) -> None:
        """
        Args:
            edges: where parts begin and end, by feature_id.
            counts: how many entries every feature has, at most.
        """
        self._edges = np.array(edges)
        self._begins = np.append(0, np.cumsum(counts))[self._edges]
        self._ends = self._begins[:-1].copy()
        self._entries = Rows(_ENTRY)
        for some in entries:
            rows = np.empty(len(some.cell), _ENTRY)
            rows["feature_id"], rows["cell"], rows["activation"] = some
            part = np.searchsorted(self._edges, some.feature_id, "right") - 1
            order = np.argsort(part, kind="stable")
            for number, of_part in zip(*_runs(part[order], rows[order]), strict=True):
                self._entries.write(int(self._ends[number]), of_part)
                self._ends[number] += len(of_part)

    def of(self, feature_id: Ints) -> Iterator[_Shown]:
        """Those of parts that have these features, and perhaps of others."""
        yield _Shown(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        for part in np.unique(np.searchsorted(self._edges, feature_id, "right") - 1):
            begin = int(self._begins[part])
            rows = self._entries.read(begin, int(self._ends[part]) - begin)
            yield _Shown(rows["feature_id"].astype(np.int64), rows["cell"].astype(np.int64), rows["activation"])


def _runs(part: Ints, rows: NDArray[Any]) -> tuple[Ints, list[NDArray[Any]]]:
    """Which parts there are, and the rows of each; both are in the order of parts."""
    parts, begins = np.unique(part, return_index=True)
    return parts, np.split(rows, begins[1:]) if len(parts) else []


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
