"""Which half of the questions discovers and which validates, by goal group: told by the goals, in whatever order."""

import hashlib
from array import array

import numpy as np

from layerscope.analysis.columns.arrays import Bools, Ints
from layerscope.records.goals import goal_key


class Halves:
    """The goal groups of scored questions while they come, 24 bytes each, and each group's half."""

    def __init__(self) -> None:
        self._keys = bytearray()  # 16 bytes each
        self._deciding = array("Q")  # of each goal a hash, with the goal's half as its last bit

    def add(self, goal: str) -> None:
        """Adds a question."""
        own = int.from_bytes(hashlib.blake2b(goal.encode(), digest_size=8).digest()) >> 1 << 1 | in_discovery_half(goal)
        self._keys += goal_key(goal)
        self._deciding.append(own)

    def groups(self) -> tuple[Ints, Bools]:
        """Of every question its group, numbered in the order in which they first appear; of every group its half.

        The smallest hash of a group's goals decides, whatever their order.
        """
        keys = np.frombuffer(self._keys, dtype="V16")
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        number = np.empty(len(first), dtype=np.int64)
        number[np.argsort(first)] = np.arange(len(first))
        group = number[place]
        deciding = np.full(len(first), np.iinfo(np.uint64).max)
        np.minimum.at(deciding, group, np.array(self._deciding, dtype=np.uint64))
        return group, deciding % 2 > 0


def in_discovery_half(goal: str) -> bool:
    """Which half a goal is in. Of a goal group the goal with the smallest hash decides, whatever the order."""
    return bool(hashlib.blake2b(goal.encode(), digest_size=1).digest()[0] & 1)
