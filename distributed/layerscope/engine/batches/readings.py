"""Which tokens of a batch are read, and which lists are made of them: index arithmetic, no torch.

Every token that any reading needs is one row of the residual stream, whichever readings and solutions share it. (The
final tokens of a pair's solutions are rows of their own always: so they were before there were other readings, and so
are the bytes.)
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from layerscope.questions.pairs import Pair
from layerscope.questions.reading import MAX
from layerscope.questions.spelling import last_word
from layerscope.records.line.attributions import AttributionRows
from layerscope.saes.spans import Groups, Spans


class BatchRows(NamedTuple):
    """What is read of a batch."""

    places: list[list[int]]
    """Of every pair, which tokens of its row; end to end they are the rows of the residual stream."""
    lists: Sequence[Mapping[int, Mapping[str, int]]]
    """Of every pair, by solution and reading, which of the batch's lists of features is its own."""
    spans: Spans | None
    """None where every row makes a list, and nothing else does."""
    groups: Groups | None = None
    """Of tokens over which attributions are summed, where they are."""
    attributions: Sequence[AttributionRows] = ()
    """Of every pair, which lists are those, behind all others."""
    n_lists: int = 0
    """Of single rows and of solutions, those of attributions not counted."""

    def further(self, dictionaries: Sequence[str]) -> dict[str, int]:
        """How far behind the first dictionary's lists those of others are, by name: behind its attributions too."""
        before = self.n_lists + (self.groups.n_groups if self.groups else 0)
        return {name: before + number * self.n_lists for number, name in enumerate(dictionaries)}


def read_batch(
    pairs: Sequence[Pair],
    names: Sequence[str],
    solutions: Sequence[Sequence[int]] | None = None,
    attributed: bool = False,
) -> BatchRows:
    """Where the readings of a batch lie, and the numbers of their lists: those of single rows first, in their order.

    Args:
        solutions: of every pair, which are read; by default all.
        attributed: whether the margin is attributed to features, over all tokens but BOS.
    """
    solutions = solutions or [pair.solutions for pair in pairs]
    places, owners, singles = list[list[int]](), list[dict[int, dict[str, int]]](), list[int]()
    members = list[tuple[int, int, int, int]]()  # row, which of the pair's read solutions, the batch's number, token
    grouped = _Grouped()
    first = 0
    firsts = list(accumulate(map(len, solutions), initial=0))
    for pair, of_pair, number in zip(pairs, solutions, firsts, strict=False):
        rows = _Rows(pair, first, of_pair)
        owners.append({solution: rows.single(solution, names) for solution in of_pair})
        singles += sorted({row for of_solution in owners[-1].values() for row in of_solution.values()})
        if MAX in names:
            for place, solution in enumerate(of_pair):
                spanned = enumerate(range(pair.prompt, pair.lengths[solution]))
                members += [
                    (rows.row(pair.row_index(solution, position)), place, number + place, token)
                    for token, position in spanned
                ]
        if attributed:
            grouped.add(pair, of_pair, rows)
        places.append(rows.places)
        first += len(rows.places)
    over_tokens = firsts[-1] if MAX in names else 0
    spans = _spans(singles, members, first, max(map(len, solutions), default=0), over_tokens)
    number_of = {row: number for number, row in enumerate(singles)}

    def numbered(rows: Mapping[str, int], solution: int) -> dict[str, int]:
        over_tokens = len(singles) + solution
        return {name: over_tokens if name == MAX else number_of[rows[name]] for name in names}

    lists = [
        {solution: numbered(rows, number + place) for place, (solution, rows) in enumerate(of_pair.items())}
        for of_pair, number in zip(owners, firsts, strict=False)
    ]
    n_lists = len(singles) + over_tokens
    if attributed:
        return BatchRows(places, lists, spans, grouped.groups(first), grouped.rows(n_lists), n_lists)
    return BatchRows(places, lists, spans if MAX in names else None, n_lists=n_lists)


def rows_among(every: BatchRows, some: BatchRows) -> list[int]:
    """Where the rows of some solutions are among the rows of all."""
    firsts = accumulate(map(len, every.places), initial=0)
    return [
        first + of_pair.index(place)
        for first, of_pair, wanted in zip(firsts, every.places, some.places, strict=False)
        for place in wanted
    ]


class _Rows:
    """The tokens of a pair that are read, each once but for the final ones."""

    def __init__(self, pair: Pair, first: int, solutions: Sequence[int]) -> None:
        self._pair, self._first, self._solutions = pair, first, solutions
        self.places = [pair.final_index(solution) for solution in solutions]
        self._numbers = {place: number for number, place in reversed(list(enumerate(self.places)))}

    def row(self, place: int) -> int:
        """The batch's row of a token."""
        if place not in self._numbers:
            self._numbers[place] = len(self.places)
            self.places.append(place)
        return self._first + self._numbers[place]

    def single(self, solution: int, names: Sequence[str]) -> dict[str, int]:
        """The row of each reading that is one token's."""
        pair = self._pair
        found = {"final": self._first + self._solutions.index(solution)}
        if "last-word" in names and pair.spelled is not None:
            position = pair.prompt + last_word(pair.spelled[solution])
            final = position == pair.lengths[solution] - 1
            found["last-word"] = found["final"] if final else self.row(pair.row_index(solution, position))
        if "prompt" in names:
            # Where the tokeniser merges across the border, the last token that is before all.
            found["prompt"] = self.row(min(pair.prompt, pair.shared) - 1)
        return found


class _Grouped:
    """The tokens over which attributions are summed, in groups: each solution's own, the common ones, the prompt's."""

    def __init__(self) -> None:
        self._members = list[tuple[int, int, int]]()  # row, group, token
        self._of_pairs = list[AttributionRows]()
        self._n_groups = 0

    def add(self, pair: Pair, solutions: Sequence[int], rows: "_Rows") -> None:
        """Notes all tokens of a pair but BOS; where the tokeniser merges across the border, all before are prompt."""
        own = {solution: self._new() for solution in solutions}
        common, prompt = self._new(), self._new()
        for solution, group in own.items():
            for position in range(1, pair.lengths[solution]):
                if position < pair.shared and solution != solutions[0]:
                    continue  # noted with the first
                of_solution = group if position >= pair.shared else common
                row = rows.row(pair.row_index(solution, position))
                if position < pair.prompt:
                    self._members.append((row, prompt, position))
                else:
                    self._members.append((row, of_solution, position - pair.prompt))
        self._of_pairs.append(AttributionRows(own, common, prompt))

    def groups(self, n_rows: int) -> Groups:
        """All groups of the batch."""
        numbers, tokens = np.full((2, n_rows), -1)
        row, group, token = np.array(self._members, dtype=np.int64).reshape(-1, 3).T
        numbers[row], tokens[row] = group, token
        return Groups(numbers, tokens, self._n_groups)

    def rows(self, before: int) -> list[AttributionRows]:
        """Of every pair, which lists its groups are, where others come before them."""
        return [
            AttributionRows({solution: before + of for solution, of in own.items()}, before + common, before + prompt)
            for own, common, prompt in self._of_pairs
        ]

    def _new(self) -> int:
        self._n_groups += 1
        return self._n_groups - 1


def _spans(
    singles: list[int], members: list[tuple[int, int, int, int]], n_rows: int, most: int, n_solutions: int
) -> Spans:
    solutions, tokens = np.full((2, most, n_rows), -1)
    row, of_pair, solution, token = np.array(members, dtype=np.int64).reshape(-1, 4).T
    solutions[of_pair, row], tokens[of_pair, row] = solution, token
    return Spans(np.array(singles, dtype=np.int64), solutions, tokens, n_solutions)
