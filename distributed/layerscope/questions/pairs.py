"""From questions to pairs, and from pairs to the plan: tokenising, sharing prefixes, cutting batches.

A pair is one row that holds both solutions of a question: the tokens they share once, then the rest of solution 1, then
the rest of solution 2. The plan fixes which questions make a batch, and in which order batches and records come; it
depends on nothing but the questions and the settings.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from layerscope.errors import UsageError
from layerscope.questions.sources import Question

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
