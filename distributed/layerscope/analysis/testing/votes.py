"""From pairs to goal groups: what a group says of a feature, once, however many questions it has.

Questions of one group repeat each other, so a test that counted each of them would find whatever is found in one. Under
the null hypothesis the labels of a whole group may be flipped, and nothing less: so the values of a group's pairs are
added up first, and only the sum is tested. Where no two questions share a group, every sum is one pair's value.
Shapes: `M` feature x pair, `C` feature x group, both ordered by feature; `Q` pairs; `G` groups.
"""

from dataclasses import dataclass

import numpy as np

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.testing.statistics import sums


@dataclass(frozen=True)
class Cells:
    """Which rows belong together, and to which feature and group."""

    cell: Ints  # [M] of each row
    feature: Ints  # [C]
    group: Ints  # [C]

    @classmethod
    def of(cls, feature: Ints, pair: Ints, group: Ints) -> "Cells":
        """Those of rows that are ordered by feature.

        Args:
            group: of every pair, [Q].
        """
        of_row = group[pair]
        shared = np.bincount(group)[of_row] > 1
        if not shared.any():
            return cls(np.arange(len(feature)), feature, of_row)
        # A row whose group has no other question is a cell by itself; the others are few as a rule, and are sorted.
        n_groups = int(group.max()) + 1
        first = np.ones(len(feature), dtype=bool)
        rows = np.flatnonzero(shared)
        _, leader, follows = np.unique(feature[rows] * n_groups + of_row[rows], return_index=True, return_inverse=True)
        first[rows] = False
        first[rows[leader]] = True
        cell = np.cumsum(first) - 1
        cell[rows] = cell[rows[leader]][follows]
        return cls(cell, feature[first], of_row[first])

    @property
    def merged(self) -> bool:
        """Whether any cell has several rows."""
        return len(self.cell) > len(self.feature)

    def sums(self, values: Floats | Ints, rows: Bools) -> Floats:
        """The sum of the values of each cell's rows among some, [C]."""
        return sums(self.cell[rows], values[rows], len(self.feature))

    def counts(self, rows: Bools) -> Ints:
        """How many of these each cell has, [C]."""
        return np.bincount(self.cell[rows], minlength=len(self.feature))


def leading_signs(sign: Floats, group: Ints) -> Floats:
    """The sign of the first pair of every group, [G]: what a flip of the group's labels is told by.

    Args:
        sign: of every pair in a contrast, [Q].
    """
    return sign[np.unique(group, return_index=True)[1]]
