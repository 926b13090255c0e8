"""The feature lists of one layer, as they stand in a file: of pairs of solutions, and of the others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.columns.spilling import Column

STRETCH = 1 << 20
"""Features of as many questions as are read at once, about."""


@dataclass(frozen=True)
class FeatureLists:
    """Every feature list of one layer, end to end: question by question, the positive solution's before the other's.

    Of `Others` one list for each.
    """

    feature_id: Ints  # [E]
    activation: NDArray[np.float32]  # [E] > 0, descending within a list
    listed: Ints  # [Q, 2] features in the list of the positive and of the negative solution
    active: Ints  # [Q, 2] features that are active; more than `listed` where the list is cut

    def stretches(self) -> Iterator[tuple[int, "FeatureLists"]]:
        """As those of `StoredLists`: all at once."""
        yield 0, self

    def read(self) -> "FeatureLists":
        return self


@dataclass(frozen=True)
class StoredLists:
    """The same on disk: `E` is not held."""

    stored_ids: Column
    stored_activations: Column
    listed: Ints  # [Q, 2]
    active: Ints  # [Q, 2]

    def stretches(self) -> Iterator[tuple[int, FeatureLists]]:
        """The lists of some questions after the others, and the number of the first of them."""
        ends = np.cumsum(self.listed.sum(axis=1))  # [Q]
        first, start = 0, 0
        if not len(ends):
            yield 0, self.read()
        while first < len(ends):
            last = max(int(np.searchsorted(ends, start + STRETCH, "right")), first + 1)
            stop = int(ends[last - 1])
            yield first, self._between(start, stop, slice(first, last))
            first, start = last, stop

    def read(self) -> FeatureLists:
        """All of them."""
        return self._between(0, int(self.listed.sum()), slice(None))

    def of_first(self, questions: int) -> "StoredLists":
        """Those of so many questions."""
        return replace(self, listed=self.listed[:questions], active=self.active[:questions])

    def _between(self, start: int, stop: int, questions: slice) -> FeatureLists:
        ids = self.stored_ids.read(start, stop - start).astype(np.int64)
        activations = self.stored_activations.read(start, stop - start)
        return FeatureLists(ids, activations, self.listed[questions], self.active[questions])


Lists = FeatureLists | StoredLists


@dataclass(frozen=True)
class Others:
    """The wrong solutions but for the strongest, of the questions that have such: O."""

    solutions: Ints  # [Q] how many every question has
    question: Ints  # [O] which question each is of
    feature_lists: Callable[[int], Lists]
    """Those of the layer with this index, [O, 1]."""
