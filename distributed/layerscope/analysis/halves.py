"""Which half of the questions discovers and which validates, by goal group: told by the goals, in whatever order."""

import hashlib
from array import array

import numpy as np
from numpy.typing import NDArray

from layerscope.records.goals import GoalGroups


class Halves:
    """The goal groups of scored questions while they come, and each group's half."""

    def __init__(self) -> None:
        self._groups = GoalGroups()
        self._deciding = array("Q")  # of each group the smallest hash of a goal, with the goal's half as its last bit

    def add(self, goal: str) -> int:
        """The number of the group of a question, which may be a new one."""
        group = self._groups.add(goal)
        own = int.from_bytes(hashlib.blake2b(goal.encode(), digest_size=8).digest()) >> 1 << 1 | in_discovery_half(goal)
        if group == len(self._deciding):
            self._deciding.append(own)
        else:
            self._deciding[group] = min(self._deciding[group], own)
        return group

    def discovery(self) -> NDArray[np.bool_]:
        """Of every group, whether it is in the half that discovers."""
        return np.array(self._deciding, dtype=np.uint64) % 2 > 0


def in_discovery_half(goal: str) -> bool:
    """Which half a goal is in. Of a goal group the goal with the smallest hash decides, whatever the order."""
    return bool(hashlib.blake2b(goal.encode(), digest_size=1).digest()[0] & 1)
