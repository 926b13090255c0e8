"""The plan: which questions make a batch, and in which order batches and records come.

It is fixed before the run starts, and depends on nothing but the questions and the settings.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerscope.questions.pairs import PairTokenizer, UnscorableError
from layerscope.questions.selection import Selection
from layerscope.questions.sources import Question


@dataclass(frozen=True)
class Plan:
    """The order of a run: questions longest first, cut into batches by a budget of tokens.

    A question that cannot be scored counts no tokens; it comes last, and its line says why.
    """

    order: NDArray[np.int64]
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

    def batch(self, index: int) -> NDArray[np.int64]:
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


def make_plan(selection: Selection, tokenizer: PairTokenizer, batch_tokens: int, share: bool = True) -> Plan:
    """Measures every question and fixes batches and order; holds 24 bytes a question.

    A batch takes questions as long as its rows' tokens stay within `batch_tokens`; a longer row is a batch alone.

    Args:
        share: whether the tokens of examples that all rows of a batch begin with are read once.
    """
    lengths, common = np.zeros((2, len(selection)), dtype=np.int64)
    unshared = unscorable = of_solutions = among_shots = 0

    def questions() -> Iterator[Question]:
        nonlocal among_shots
        for question in selection:
            among_shots += tokenizer.sees_itself(question)
            yield question

    for index, outcome in enumerate(tokenizer.pairs(questions())):
        if isinstance(outcome, UnscorableError):
            unscorable += 1
        else:
            lengths[index] = len(outcome.tokens)
            common[index] = outcome.common if share else 0
            unshared += sum(outcome.lengths)
            of_solutions += len(outcome.tokens) - outcome.prompt
    order = np.argsort(-lengths, kind="stable")  # ties by ascending id
    starts = cut(lengths[order], batch_tokens, common[order])
    read = int(lengths.sum()) - _read_once(lengths[order], common[order], starts)
    example_ids = selection.example_ids[order]
    digest = _digest(selection, example_ids, starts)
    return Plan(example_ids, starts, read, unshared, unscorable, digest, of_solutions, among_shots)


def cut(lengths: NDArray[np.int64], budget: int, common: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Where batches start: each takes rows while their sum stays within the budget, and at least one.

    Args:
        common: how many tokens of a row are read once for all rows of its batch that have as many, [Q].
    """
    starts = [0]
    rows = total = empty = low = 0  # of the batch: rows with tokens, these, rows without, what all rows have in common
    commons = [0] * len(lengths) if common is None else common.tolist()
    for index, (length, of_row) in enumerate(zip(lengths.tolist(), commons, strict=True)):
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


def _read_once(lengths: NDArray[np.int64], common: NDArray[np.int64], starts: NDArray[np.int64]) -> int:
    """Tokens that batches have fewer than their rows, because these begin alike."""
    if not common.any():
        return 0
    scorable, begins = lengths > 0, starts[:-1]
    rows = np.add.reduceat(scorable, begins, dtype=np.int64)
    least = np.minimum.reduceat(np.where(scorable, common, common.max()), begins)
    return int((np.maximum(rows - 1, 0) * least).sum())


def _digest(selection: Selection, example_ids: NDArray[np.int64], starts: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(example_ids.tobytes() + starts.tobytes())
    for question in selection:
        label = str(question.label) + (f" of {len(question.solutions)}" if question.more else "")
        texts = [text.encode("utf-8", "surrogatepass") for text in (question.goal, *question.solutions, label)]
        for encoded in [*texts, question.metadata] if question.metadata else texts:
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
