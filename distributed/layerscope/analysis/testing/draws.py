"""Bootstrap draws of goal groups: of many groups on disk, because they take a gigabyte where there are a million."""

import weakref
from collections.abc import Iterator
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.spilling import written

DRAWS = 1000
_HELD_BYTES = 1 << 26
"""Draws that take more are on disk."""
_NUMBERS = 1 << 24  # of `blocks`, at once


class Draws:
    """How often each draw of as many groups has a group, [G, B]."""

    def __init__(self, groups: int, rng: np.random.Generator) -> None:
        """
        Raises:
            LayerscopeError: there is no room for the temporary file.
        """
        self._groups = groups
        self._held = np.empty((DRAWS if groups * DRAWS <= _HELD_BYTES else 0, groups), dtype=np.uint8)
        self._file = None if len(self._held) else TemporaryFile(buffering=0)  # noqa: SIM115
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        for number in range(DRAWS):  # a group is drawn 255 times in no draw that anybody will see
            drawn = np.bincount(rng.integers(0, groups, groups), minlength=groups).astype(np.uint8)
            if self._file is None:
                self._held[number] = drawn
            else:
                written(self._file, drawn.tobytes())

    def __len__(self) -> int:
        """Groups."""
        return self._groups

    def some(self, start: int = 0, stop: int = DRAWS) -> NDArray[np.uint8]:
        """Draw by draw, [some of B, G]."""
        stop = min(stop, DRAWS)
        if self._file is None:
            return self._held[start:stop]
        self._file.seek(start * self._groups)
        count = (stop - start) * self._groups
        return np.fromfile(self._file, dtype=np.uint8, count=count).reshape(-1, self._groups)

    def of_pairs(self, group: NDArray[np.int64], start: int, stop: int) -> NDArray[np.uint8]:
        """How often some draws have the group of every pair, [H, some of B]."""
        return np.ascontiguousarray(self.some(start, stop)[:, group].T)

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Some draws after the others, [G, some of B]."""
        step = max(_NUMBERS // max(self._groups, 1), 1)
        for start in range(0, DRAWS, step):
            yield np.ascontiguousarray(self.some(start, start + step).T)
