"""Questions with more than two solutions: chance, and the right one against the mean of the wrong ones.

Everything else of an analysis is about the right solution and the strongest wrong one, and never mixed with this.
"""

from array import array
from collections.abc import Callable

import numpy as np

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.columns.lists import Lists, Others
from layerscope.analysis.testing.proportion import ManySolutions
from layerscope.analysis.testing.statistics import proportion
from layerscope.records.line.record import Record


class SolutionColumns:
    """How many solutions each question has, and its margin to the mean of the wrong ones, while they grow."""

    def __init__(self) -> None:
        self._solutions, self._margin_to_mean = array("h"), array("d")

    def add(self, record: Record) -> None:
        self._solutions.append(2 + len(record.more))
        self._margin_to_mean.append(record.margin_to_mean)

    def others(self, feature_lists: Callable[[int], Lists]) -> Others | None:
        """Whose features there are besides the pairs'; None where every question has two solutions."""
        solutions = np.array(self._solutions, dtype=np.int64)
        question = np.repeat(np.arange(len(solutions)), solutions - 2)
        return Others(solutions, question, feature_lists) if len(question) else None

    def many(self, group: Ints) -> ManySolutions | None:
        """What there is to say; None where every question has two.

        Args:
            group: [Q] goal group of every question.
        """
        solutions, margin = np.array(self._solutions), np.array(self._margin_to_mean)
        if not len(solutions) or solutions.max() == 2:
            return None
        above = proportion(margin > 0, group)
        more = int((solutions > 2).sum())
        return ManySolutions(more, int(solutions.max()), float((1 / solutions).mean()), above, float(np.median(margin)))
