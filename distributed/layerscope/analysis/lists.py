"""The feature lists of one layer, as they stand in a file: of pairs of solutions, and of the others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.arrays import Ints


@dataclass(frozen=True)
class FeatureLists:
    """Every feature list of one layer, end to end: question by question, the positive solution's before the other's.

    Of `Others` one list for each.
    """

    feature_id: Ints  # [E]
    activation: NDArray[np.float32]  # [E] > 0, descending within a list
    listed: Ints  # [Q, 2] features in the list of the positive and of the negative solution
    active: Ints  # [Q, 2] features that are active; more than `listed` where the list is cut


@dataclass(frozen=True)
class Others:
    """The wrong solutions but for the strongest, of the questions that have such: O."""

    solutions: Ints  # [Q] how many every question has
    question: Ints  # [O] which question each is of
    feature_lists: Callable[[int], FeatureLists]
    """Reads those of the layer with this index, [O, 1]."""
