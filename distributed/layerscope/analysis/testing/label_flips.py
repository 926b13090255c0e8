"""Random signs of goal groups, a bit each: as numbers they take gigabytes where there are a million groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from layerscope.analysis.columns.arrays import Floats, Ints

_HELD_BYTES = 1 << 27  # of signs as numbers, at once
_PRODUCT_ROWS = 4096  # features whose permuted statistics are held at once
_WAITING = 1 << 23  # entries of features that wait, 8 bytes each
_GROUPS_DRAWN = 1 << 12  # at once; a multiple of four, which is what the generator draws together


@dataclass(frozen=True)
class LabelFlips:
    """A sign for every goal group and permutation, [G, P]."""

    bits: NDArray[np.uint8]
    """[G, P / 8], 1 where the sign is positive."""
    permutations: int

    @classmethod
    def random(cls, n_groups: int, permutations: int, seed: int) -> "LabelFlips":
        """The same signs for a seed, however many are drawn at once."""
        generator, bits = np.random.default_rng(seed), np.empty((n_groups, (permutations + 7) // 8), np.uint8)
        for start in range(0, n_groups, _GROUPS_DRAWN):
            shape = (min(_GROUPS_DRAWN, n_groups - start), permutations)
            bits[start : start + shape[0]] = np.packbits(generator.integers(0, 2, shape, dtype=np.int8), axis=1)
        return cls(bits, permutations)

    def __len__(self) -> int:
        """Groups."""
        return len(self.bits)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Some permutations after the other, [G, some]: 1 and -1."""
        step = max(8, _HELD_BYTES // (4 * max(len(self), 1)) // 8 * 8)
        if step >= self.permutations:
            yield self._whole
            return
        for first in range(0, self.permutations, step):
            yield self._signs(first, min(step, self.permutations - first))

    @cached_property
    def _whole(self) -> NDArray[np.float32]:
        return self._signs(0, self.permutations)

    def _signs(self, first: int, count: int) -> NDArray[np.float32]:
        bits = np.unpackbits(self.bits[:, first // 8 : (first + count + 7) // 8], axis=1, count=count)
        signs = bits.astype(np.float32)
        signs *= 2
        signs -= 1
        return signs


class LargestFlipped:
    """The largest |z| over features in every permutation; z is a signed sum over groups / its standard deviation.

    Features come a few at a time, and wait until there are enough of them: what takes the time is to make numbers of
    the signs.
    """

    def __init__(self, flips: LabelFlips) -> None:
        self._flips = flips
        self._largest = np.zeros(flips.permutations, dtype=np.float32)
        self._waiting = list[Any]()  # sparse matrices, [F, G]

    def add(self, feature: Ints, group: Ints, value: Floats | Ints, n_features: int) -> None:
        """
        Args:
            value: [C] what a goal group adds to the sum of a feature: its sign, or its signed rank.
        """
        norm = np.sqrt(np.bincount(feature, np.square(value), n_features))
        scaled, places = (value / norm[feature]).astype(np.float32), (feature.astype(np.int32), group.astype(np.int32))
        self._waiting.append(sparse.csr_array((scaled, places), shape=(n_features, len(self._flips))))
        if sum(matrix.nnz for matrix in self._waiting) > _WAITING:
            self._flip()

    def result(self) -> NDArray[np.float32]:
        """[P]"""
        self._flip()
        return self._largest

    def _flip(self) -> None:
        first = 0
        for signs in self._flips.blocks() if self._waiting else ():  # [G, some of P]
            largest = self._largest[first : first + signs.shape[1]]
            for matrix in self._waiting:
                for start in range(0, matrix.shape[0], _PRODUCT_ROWS):
                    z = matrix[start : start + _PRODUCT_ROWS] @ signs  # [rows, some of P]
                    np.maximum(largest, np.maximum(z.max(axis=0), -z.min(axis=0)), out=largest)
            first += signs.shape[1]
        self._waiting.clear()
