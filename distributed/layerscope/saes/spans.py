"""Which rows of the residual stream belong to which solution, for lists over all tokens of a solution. No torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spans(NamedTuple):
    """Of R rows, the tokens of B pairs, of each at most K solutions. A token that several share is one row."""

    single: NDArray[np.int64]  # [S]; the rows that make a list of their own each
    solutions: NDArray[np.int64]  # [K, R]; of which solution a row is a token, counted over the batch; -1 for none
    tokens: NDArray[np.int64]  # [K, R]; which token of it, from 0
    n_solutions: int


class Groups(NamedTuple):
    """Of R rows, the tokens over which attributions are summed: each row is in one group, or in none."""

    numbers: NDArray[np.int64]  # [R]; of which group a row is a token, counted over the batch; -1 for none
    tokens: NDArray[np.int64]  # [R]; which token of it
    n_groups: int
