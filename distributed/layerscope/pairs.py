"""From questions to pairs, and from pairs to the plan: tokenising, sharing prefixes, cutting batches.

A pair is one row that holds both solutions of a question: the tokens they share once, then the rest of solution 1, then
the rest of solution 2. The plan fixes which questions make a batch, and in which order batches and records come; it
depends on nothing but the questions and the settings.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from layerscope.errors import UsageError
from layerscope.questions import Question, Selection

PROMPT = "Question: {goal}\nSolution:"
BOS = "<bos>"
# Tokens that steer a model. Gemma's vocabulary also holds HTML tags and runs of blanks as added tokens: those are text.
_CONTROL_TOKEN = re.compile(r"<(pad|eos|bos|unk|mask|2mass|unused\d+|start_of_turn|end_of_turn)>|\[@BOS@\]")
_CHUNK = 256  # questions tokenised at once


class UnscorableError(Exception):
    """A question that cannot be scored, which its line in the file says; not a failure of the run."""


@dataclass(frozen=True)
class Pair:
    """Both solutions of a question as one row of tokens.

    Token j of solution 1 lies at row index j. Token j of solution 2 lies at j where j < `shared`, and at
    j + `lengths[0]` - `shared` behind that.
    """

    tokens: tuple[int, ...]
    """Shared tokens, rest of solution 1, rest of solution 2; BOS first."""
    shared: int
    """How many tokens at the start stand for both."""
    lengths: tuple[int, int]
    """Tokens of each whole text, prompt and BOS included."""
    prompt: int
    """Tokens of the prompt alone, BOS included; the solution's tokens are those from here on."""

    def row_index(self, solution: int, position: int) -> int:
        """Where the token of a solution (0 or 1) at a position of its text lies in the row."""
        return position if solution == 0 or position < self.shared else position + self.lengths[0] - self.shared

    def final_index(self, solution: int) -> int:
        """Where a solution's final token lies in the row."""
        return self.row_index(solution, self.lengths[solution] - 1)

    def solution_tokens(self, solution: int) -> tuple[int, ...]:
        """The tokens whose log-likelihoods are summed."""
        return tuple(
            self.tokens[self.row_index(solution, position)] for position in range(self.prompt, self.lengths[solution])
        )

    def positions(self) -> NDArray[np.int64]:
        """The position of every token of the row in its own text."""
        rest_2 = np.arange(self.shared, self.lengths[1])
        return np.concatenate([np.arange(self.lengths[0]), rest_2])

    def segments(self) -> NDArray[np.int64]:
        """0 for shared tokens, 1 for the rest of solution 1, 2 for the rest of solution 2."""
        return np.repeat([0, 1, 2], [self.shared, self.lengths[0] - self.shared, self.lengths[1] - self.shared])


class PairTokenizer:
    """Gemma's tokeniser, used so that every character of a question is text and BOS comes first.

    Raises:
        UsageError: the file is not a tokeniser, or has no BOS token.
    """

    def __init__(self, path: Path, context: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception for a broken file
            raise UsageError(f"{path} is not a tokeniser that can be read: {str(error)[:200]}") from error
        bos_id = self._tokenizer.token_to_id(BOS)
        if bos_id is None:
            raise UsageError(f"{path} has no {BOS} token: not Gemma's tokeniser, whose texts all begin with it.")
        self.bos_id: int = bos_id
        self._context = context
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        control = [
            AddedToken(token.content, special=True, normalized=False)
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if _CONTROL_TOKEN.fullmatch(token.content)
        ]
        self._tokenizer.add_special_tokens(control)
        self._tokenizer.encode_special_tokens = True  # "<bos>" inside a question is five characters, not a token

    def pair(self, question: Question) -> Pair:
        """Tokenises a question.

        Raises:
            UnscorableError: a solution is empty, or longer than the model's context.
        """
        outcome = next(self.pairs([question]))
        if isinstance(outcome, UnscorableError):
            raise outcome
        return outcome

    def pairs(self, questions: Iterable[Question]) -> Iterator[Pair | UnscorableError]:
        """The pair of every question, or why it has none."""
        iterator = iter(questions)
        while chunk := list(islice(iterator, _CHUNK)):
            texts = []
            for question in chunk:
                prompt = PROMPT.format(goal=question.goal)
                texts += [prompt, f"{prompt} {question.sol1}", f"{prompt} {question.sol2}"]
            encodings = [
                [self.bos_id, *encoding.ids]
                for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ]
            for index, question in enumerate(chunk):
                prompt_ids, ids_1, ids_2 = encodings[3 * index : 3 * index + 3]
                reason = self._unscorable(question, len(prompt_ids), (len(ids_1), len(ids_2)))
                yield UnscorableError(reason) if reason else _share(len(prompt_ids), ids_1, ids_2)

    def token_text(self, token_id: int) -> str:
        """The token as its vocabulary writes it (`▁` for a blank)."""
        return self._tokenizer.id_to_token(token_id) or ""

    def _unscorable(self, question: Question, prompt: int, lengths: tuple[int, int]) -> str | None:
        for name, text, length in zip(("sol1", "sol2"), (question.sol1, question.sol2), lengths, strict=True):
            if not text.strip():
                return f"{name} is {'only white space' if text else 'empty'}"
            if length <= prompt:
                return f"{name} has no token of its own: the tokeniser merges it into the prompt"
            if length > self._context:
                return f"{name} makes {length} tokens with its question; the model's context is {self._context}"
        return None


def _share(prompt: int, ids_1: list[int], ids_2: list[int]) -> Pair:
    shared = 0
    for token_1, token_2 in zip(ids_1, ids_2, strict=False):
        if token_1 != token_2:
            break
        shared += 1
    return Pair((*ids_1, *ids_2[shared:]), shared, (len(ids_1), len(ids_2)), prompt)


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
    unshared = unscorable = 0
    for index, outcome in enumerate(tokenizer.pairs(selection)):
        if isinstance(outcome, UnscorableError):
            unscorable += 1
        else:
            lengths[index] = len(outcome.tokens)
            unshared += sum(outcome.lengths)
    order = np.argsort(-lengths, kind="stable")  # ties by ascending id
    starts = cut(lengths[order], batch_tokens)
    example_ids = selection.example_ids[order]
    return Plan(example_ids, starts, int(lengths.sum()), unshared, unscorable, _digest(selection, example_ids, starts))


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
        for text in (question.goal, question.sol1, question.sol2, str(question.label)):
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
