"""Which tokens of a batch are read, and which lists are made of them: index arithmetic, no torch.

Every token that any reading needs is one row of the residual stream, whichever readings and solutions share it. (The
final tokens of a pair are two rows always: so they were before there were other readings, and so are the bytes.)
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from layerscope.questions.pairs import Pair, last_word
from layerscope.questions.reading import MAX
from layerscope.saes.spans import Spans


class BatchRows(NamedTuple):
    """What is read of a batch."""

    places: list[list[int]]
    """Of every pair, which tokens of its row; end to end they are the rows of the residual stream."""
    lists: Sequence[tuple[Mapping[str, int], Mapping[str, int]]]
    """Of every pair and of each of its solutions, by reading, which of the batch's lists of features is its own."""
    spans: Spans | None
    """None where every row makes a list, and nothing else does."""


def read_batch(pairs: Sequence[Pair], names: Sequence[str]) -> BatchRows:
    """Where the readings of a batch lie, and the numbers of their lists: those of single rows first, in their order."""
    places, owners, singles = list[list[int]](), list[tuple[dict[str, int], dict[str, int]]](), list[int]()
    members = list[tuple[int, int, int, int]]()  # row, which of the pair's solutions, the batch's number of it, token
    first = 0
    for number, pair in enumerate(pairs):
        rows = _Rows(pair, first)
        owners.append((rows.single(0, names), rows.single(1, names)))
        singles += sorted({row for of_solution in owners[-1] for row in of_solution.values()})
        if MAX in names:
            for solution in (0, 1):
                spanned = enumerate(range(pair.prompt, pair.lengths[solution]))
                members += [
                    (rows.row(pair.row_index(solution, position)), solution, 2 * number + solution, token)
                    for token, position in spanned
                ]
        places.append(rows.places)
        first += len(rows.places)
    spans = _spans(singles, members, first, 2 * len(pairs)) if MAX in names else None
    number_of = {row: number for number, row in enumerate(singles)}

    def numbered(rows: Mapping[str, int], solution: int) -> dict[str, int]:
        over_tokens = len(singles) + solution
        return {name: over_tokens if name == MAX else number_of[rows[name]] for name in names}

    lists = [(numbered(one, 2 * pair), numbered(other, 2 * pair + 1)) for pair, (one, other) in enumerate(owners)]
    return BatchRows(places, lists, spans)


class _Rows:
    """The tokens of a pair that are read, each once but for the final ones."""

    def __init__(self, pair: Pair, first: int) -> None:
        self._pair, self._first = pair, first
        self.places = [pair.final_index(0), pair.final_index(1)]
        self._numbers = {self.places[1]: 1, self.places[0]: 0}

    def row(self, place: int) -> int:
        """The batch's row of a token."""
        if place not in self._numbers:
            self._numbers[place] = len(self.places)
            self.places.append(place)
        return self._first + self._numbers[place]

    def single(self, solution: int, names: Sequence[str]) -> dict[str, int]:
        """The row of each reading that is one token's."""
        pair = self._pair
        found = {"final": self._first + solution}
        if "last-word" in names and pair.spelled is not None:
            position = pair.prompt + last_word(pair.spelled[solution])
            final = position == pair.lengths[solution] - 1
            found["last-word"] = found["final"] if final else self.row(pair.row_index(solution, position))
        if "prompt" in names:
            # Where the tokeniser merges across the border, the last token that is before both.
            found["prompt"] = self.row(min(pair.prompt, pair.shared) - 1)
        return found


def _spans(singles: list[int], members: list[tuple[int, int, int, int]], n_rows: int, n_solutions: int) -> Spans:
    solutions, tokens = np.full((2, n_rows), -1), np.full((2, n_rows), -1)
    row, of_pair, solution, token = np.array(members, dtype=np.int64).reshape(-1, 4).T
    solutions[of_pair, row], tokens[of_pair, row] = solution, token
    return Spans(np.array(singles, dtype=np.int64), solutions, tokens, n_solutions)
