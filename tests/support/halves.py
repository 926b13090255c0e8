"""Questions' columns without a file, for what compares halves: random margins and lengths, which know no side."""

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.result import Questions


def made_up_questions(n: int, seed: int = 0, group: NDArray[np.int64] | None = None) -> Questions:
    """About half of the goal groups in either half; every question a group of its own, unless they are given."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) if group is None else group
    margin, no = rng.standard_normal(n), np.zeros(n, dtype=bool)
    lengths = rng.integers(3, 30, (2, n))
    halves = rng.random(int(group.max()) + 1) < 0.5
    return Questions(np.arange(n), margin, margin > 0, margin > 0, *lengths, no, no, halves[group], group)
