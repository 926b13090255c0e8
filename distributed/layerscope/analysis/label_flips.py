"""Random signs of goal groups, a bit each: as numbers they take gigabytes where there are a million groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_HELD_BYTES = 1 << 27  # of signs as numbers, at once
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
