"""The plan: which questions make a batch, and in which order batches and records come.

It is fixed before the run starts, and depends on nothing but the questions and the settings.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerscope.questions.pairs import PairTokenizer, UnscorableError
from layerscope.questions.selection import Selection


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
    """Tokens of all pairs, each shared token once: what the model reads."""
    unshared_tokens: int
    """Tokens of all solutions one at a time."""
    unscorable: int
    """Questions that get an error line."""
    digest: str
    """SHA-256 over every question's content and the order, of all parts: what the file's lines must match."""
    solution_tokens: int = 0
    """Tokens of all pairs behind their prompts, each shared token once."""

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


def make_plan(selection: Selection, tokenizer: PairTokenizer, batch_tokens: int) -> Plan:
    """Measures every question and fixes batches and order; holds 16 bytes a question.

    A batch takes questions as long as its rows' tokens stay within `batch_tokens`; a longer row is a batch alone.
    """
    lengths = np.zeros(len(selection), dtype=np.int64)
    unshared = unscorable = of_solutions = 0
    for index, outcome in enumerate(tokenizer.pairs(selection)):
        if isinstance(outcome, UnscorableError):
            unscorable += 1
        else:
            lengths[index] = len(outcome.tokens)
            unshared += sum(outcome.lengths)
            of_solutions += len(outcome.tokens) - outcome.prompt
    order = np.argsort(-lengths, kind="stable")  # ties by ascending id
    starts = cut(lengths[order], batch_tokens)
    example_ids = selection.example_ids[order]
    digest = _digest(selection, example_ids, starts)
    return Plan(example_ids, starts, int(lengths.sum()), unshared, unscorable, digest, of_solutions)


def cut(lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Where batches start: each takes rows while their sum stays within the budget, and at least one."""
    starts = [0]
    total = 0
    for index, length in enumerate(lengths.tolist()):
        # A row without tokens (a question with an error line) counts one, so that no batch grows without bound.
        total += max(length, 1)
        if total > budget and index > starts[-1]:
            starts.append(index)
            total = max(length, 1)
    if len(lengths):
        starts.append(len(lengths))
    return np.array(starts, dtype=np.int64)


def _digest(selection: Selection, example_ids: NDArray[np.int64], starts: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(example_ids.tobytes() + starts.tobytes())
    for question in selection:
        label = str(question.label) + (f" of {len(question.solutions)}" if question.more else "")
        texts = [text.encode("utf-8", "surrogatepass") for text in (question.goal, *question.solutions, label)]
        for encoded in [*texts, question.metadata] if question.metadata else texts:
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
