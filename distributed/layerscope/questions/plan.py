"""The plan: which questions make a batch, and in which order batches and records come.

It is fixed before the run starts, and depends on nothing but the questions and the settings.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.questions.measuring import measured
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.selection import Selection

_AT_ONCE = 1 << 18
Integers = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Plan:
    """The order of a run: questions longest first, cut into batches by a budget of tokens.

    A question that cannot be scored counts no tokens; it comes last, and its line says why.
    """

    order: Integers
    """`example_id` of every question, in the order of the file."""
    starts: NDArray[np.int64]
    """Where each batch starts in `order`, and at the end the number of questions."""
    shared_tokens: int
    """Tokens of all batches, each shared token once: what the model reads."""
    unshared_tokens: int
    """Tokens of all solutions one at a time."""
    unscorable: int
    """Questions that get an error line."""
    digest: str
    """SHA-256 over every question's content and the order, of all parts: what the file's lines must match."""
    solution_tokens: int = 0
    """Tokens of all pairs behind their prompts, each shared token once."""
    among_shots: int = 0
    """Questions that are themselves among the examples, and see another one instead."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, index: int) -> Integers:
        """The `example_id`s of a batch."""
        return self.order[self.starts[index] : self.starts[index + 1]]

    def batch_of(self, line: int) -> int:
        """The batch that holds a line of the file."""
        return int(np.searchsorted(self.starts, line, side="right")) - 1

    def part(self, index: int, count: int) -> "Plan":
        """The batches of one of `count` parts, the first being 1: the same batches, so that the same bytes come out.

        The parts follow one another and have as many batches each, give or take one. The tokens are the whole plan's.
        """
        first, last = (len(self) * edge // count for edge in (index - 1, index))
        starts = self.starts[first : last + 1]
        return replace(self, order=self.order[starts[0] : starts[-1]], starts=starts - starts[0])


def make_plan(
    selection: Selection, tokenizer: PairTokenizer, batch_tokens: int, share: bool = True, processes: int = 1
) -> Plan:
    """Measures every question and fixes batches and order; holds 8 bytes a question, or 16 with examples, and at the
    end 4.

    A batch takes questions as long as its rows' tokens stay within `batch_tokens`; a longer row is a batch alone.

    Args:
        share: whether the tokens of examples that all rows of a batch begin with are read once.
        processes: that tokenise, where there are many questions.

    Raises:
        LayerscopeError: the temporary folder is full, or a process was killed.
    """
    with measured(selection, tokenizer, share, processes) as (found, content):
        order = _longest_first(found.lengths)
        found.lengths.sort()  # where they are: a second list takes as much again
        lengths = found.lengths[::-1]
        common = found.common[order] if found.common.any() else None
        starts = cut(lengths, batch_tokens, common)
        read = int(lengths.sum(dtype=np.int64)) - (0 if common is None else _read_once(lengths, common, starts))
        example_ids = order if selection.drawn is None else selection.example_ids[order]
        digest = _digest(example_ids, starts, content)
    counted = found.unscorable, digest, found.of_solutions, found.among_shots
    return Plan(example_ids, starts, read, found.unshared, *counted)


def _longest_first(lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """The places of lengths from the greatest to the smallest, those of equal ones ascending; a part at a time, because
    sorting all at once takes eight bytes a place more than twice."""
    if not len(lengths):
        return np.zeros(0, np.int32)
    most = int(lengths.max())
    parts = [slice(first, first + _AT_ONCE) for first in range(0, len(lengths), _AT_ONCE)]
    of_length = sum(np.bincount(most - lengths[part], minlength=most + 1) for part in parts)
    next_place = np.cumsum(of_length) - of_length
    order = np.empty(len(lengths), np.int32)
    for part in parts:
        shorter = most - lengths[part]
        places = np.argsort(shorter, kind="stable")
        ascending = shorter[places]
        kinds, begins, counts = np.unique(ascending, return_index=True, return_counts=True)
        within = np.arange(len(ascending)) - np.repeat(begins, counts)
        order[next_place[ascending] + within] = part.start + places
        next_place[kinds] += counts
    return order


def cut(lengths: Integers, budget: int, common: Integers | None = None) -> NDArray[np.int64]:
    """Where batches start: each takes rows while their sum stays within the budget, and at least one.

    Args:
        common: how many tokens of a row are read once for all rows of its batch that have as many, [Q].
    """
    starts = [0]
    rows = total = empty = low = 0  # of the batch: rows with tokens, these, rows without, what all rows have in common
    commons = repeat(0, len(lengths)) if common is None else _one_by_one(common)
    for index, (length, of_row) in enumerate(zip(_one_by_one(lengths), commons, strict=True)):
        # A row without tokens (a question with an error line) counts one, so that no batch grows without bound.
        one, none = (1, 0) if length else (0, 1)
        least = min(low, of_row) if rows and length else low if rows else of_row
        size = total + length - max(0, rows + one - 1) * least + empty + none
        if size > budget and index > starts[-1]:
            starts.append(index)
            rows, total, empty, low = one, length, none, of_row
        else:
            rows, total, empty, low = rows + one, total + length, empty + none, least
    if len(lengths):
        starts.append(len(lengths))
    return np.array(starts, dtype=np.int64)


def _one_by_one(numbers: Integers) -> Iterator[int]:
    for first in range(0, len(numbers), _AT_ONCE):
        yield from numbers[first : first + _AT_ONCE].tolist()


def _read_once(lengths: Integers, common: Integers, starts: NDArray[np.int64]) -> int:
    """Tokens that batches have fewer than their rows, because these begin alike."""
    scorable, begins = lengths > 0, starts[:-1]
    rows = np.add.reduceat(scorable, begins, dtype=np.int64)
    least = np.minimum.reduceat(np.where(scorable, common, common.max()), begins)
    return int((np.maximum(rows - 1, 0) * least).sum())


def _digest(example_ids: Integers, starts: NDArray[np.int64], said: Iterator[bytes]) -> str:
    """Of the order, the batches, and what the questions say, in the order of the selection."""
    digest = hashlib.sha256()
    for first in range(0, len(example_ids), _AT_ONCE):
        digest.update(example_ids[first : first + _AT_ONCE].astype(np.int64, copy=False).tobytes())
    digest.update(starts.tobytes())
    for piece in said:
        digest.update(piece)
    return digest.hexdigest()
