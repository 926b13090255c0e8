"""From questions to pairs, and from pairs to the plan: tokenising, sharing prefixes, cutting batches.

A pair is one row that holds the solutions of a question, which are two as a rule: the tokens that all of them share
once, then the rest of one after the other. The plan fixes which questions make a batch, and in which order batches and
records come; it depends on nothing but the questions and the settings.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer

from layerscope.errors import UsageError
from layerscope.questions.prompts import DEFAULT, GOAL, Prompt
from layerscope.questions.shots import BETWEEN
from layerscope.questions.sources import Question
from layerscope.questions.spelling import spelled
from layerscope.questions.words import encoder_of, merged

BOS = "<bos>"
# Tokens that steer a model. Gemma's vocabulary also holds HTML tags and runs of blanks as added tokens: those are text.
_CONTROL_TOKEN = re.compile(
    r"<(pad|eos|bos|unk|mask|2mass|unused\d+|(start|end)_of_(turn|image)|image_soft_token)>|\[(@BOS@|multimodal)\]"
)
_CHUNK = 256  # questions tokenised at once


class Encoded(NamedTuple):
    """A text and what the tokeniser makes of it."""

    text: str
    ids: Sequence[int]
    found: Encoding | None = None
    """Where pairs are to say what each token stands for."""


class UnscorableError(Exception):
    """A question that cannot be scored, which its line in the file says; not a failure of the run."""


@dataclass(frozen=True)
class Pair:
    """The solutions of a question as one row of tokens.

    Token j of a solution lies at row index j where j < `shared`, and behind that further by what the solutions before
    it have of their own; so all of the first lie at their own positions.
    """

    tokens: tuple[int, ...]
    """Shared tokens, rest of solution 1, rest of solution 2, and so on; BOS first."""
    shared: int
    """How many tokens at the start stand for all."""
    lengths: tuple[int, ...]
    """Tokens of each whole text, prompt and BOS included."""
    prompt: int
    """Tokens of the prompt alone, BOS included; the solution's tokens are those from here on."""
    spelled: tuple[tuple[str, ...], ...] | None = None
    """What each of a solution's tokens stands for in its text, if that was asked for; joined they are the text."""
    common: int = 0
    """How many of the shared tokens at the start are those of the run's examples: every question's, or nearly."""

    @property
    def solutions(self) -> range:
        """Their numbers, from 0."""
        return range(len(self.lengths))

    def row_index(self, solution: int, position: int) -> int:
        """Where the token of a solution at a position of its text lies in the row."""
        if position < self.shared:
            return position
        return position + sum(self.lengths[:solution]) - solution * self.shared

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
        rests = [np.arange(self.shared, length) for length in self.lengths]
        return np.concatenate([np.arange(self.shared), *rests])

    def segments(self) -> NDArray[np.int64]:
        """0 for shared tokens, 1 for the rest of solution 1, 2 for the rest of solution 2, and so on."""
        rests = [length - self.shared for length in self.lengths]
        return np.repeat(np.arange(len(rests) + 1), [self.shared, *rests])


def tokens_read(pairs: Sequence[Pair], share: bool = True) -> int:
    """How many tokens the model reads of a batch.

    Args:
        share: what all pairs begin with is read once.
    """
    common = common_tokens(pairs) if share else 0
    return common + sum(len(pair.tokens) - common for pair in pairs)


def common_tokens(pairs: Sequence[Pair]) -> int:
    """How many tokens of the run's examples all pairs of a batch begin with."""
    return min((pair.common for pair in pairs), default=0)


class PairTokenizer:
    """Gemma's tokeniser, used so that every character of a question is text and BOS comes first.

    Args:
        context: the longest text in tokens.
        spell: pairs say what each token stands for, which takes a little longer.

    Raises:
        UsageError: the file is not a tokeniser, has no BOS token, or the prompt alone fills the context.
    """

    def __init__(self, path: Path, context: int, prompt: Prompt = DEFAULT, spell: bool = False) -> None:
        self.arguments = path, context, prompt, spell
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
        self._prompt, self._spell, self._encode = prompt, spell, encoder_of(self._tokenizer)
        self._template = self._parts(prompt.template)
        self._usual = self._before(prompt.shots.usual) if prompt.shots else []
        *self._head, _ = merged([*self._usual, *self._template])
        self._beginning = self._empty_prompt()

    def __reduce__(self) -> tuple[type["PairTokenizer"], tuple[Path, int, Prompt, bool]]:
        """Another process makes its own."""
        return PairTokenizer, self.arguments

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
            encoded = self._encoded([text for question in chunk for text in self._texts(question)])
            for question in chunk:
                head = self._head_ids(encoded)
                of_solutions = islice(encoded, 1 + len(question.solutions))
                yield self._pair(question, head, *of_solutions)

    def _encoded(self, texts: Sequence[str]) -> Iterator[Encoded]:
        """What the tokeniser makes of each text."""
        if self._spell:
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            return (Encoded(text, found.ids, found) for text, found in zip(texts, encodings, strict=True))
        return (Encoded(text, ids) for text, ids in zip(texts, self._encode(texts), strict=True))

    def _pair(
        self, question: Question, head: list[int], prompt: Encoded, *solutions: Encoded
    ) -> Pair | UnscorableError:
        """
        Args:
            head: the tokens of all but the prompt's last text.
            prompt, solutions: that text, alone and with each solution.
        """
        behind = len(prompt.ids)
        texts = [[*head, *solution.ids] for solution in solutions]
        if reason := self._unscorable(question, len(head) + behind, [len(ids) for ids in texts]):
            return UnscorableError(reason)
        pair = _share(len(head) + behind, texts)
        if self._prompt.shots:
            begins = _equal_at_start(pair.tokens, self._beginning)
            pair = replace(pair, common=min(begins, pair.shared, pair.prompt))
        if not self._spell:
            return pair
        start = len(prompt.text) + len(self._prompt.separator)
        spelled_out = tuple(spelled(text, start, found.offsets[behind:]) for text, _, found in solutions if found)
        return replace(pair, spelled=spelled_out)

    def _parts(self, template: str) -> list[str | int]:
        """A template without BOS as texts and control tokens in turn; the last is a text, perhaps an empty one.

        A tokeniser takes a text before or behind such a token as if it stood alone, so each can be tokenised by itself.
        """
        template = template.removeprefix(BOS)
        parts, start = list[str | int](), 0
        for match in _CONTROL_TOKEN.finditer(template):
            token_id = self._tokenizer.token_to_id(match[0])
            if token_id is not None:
                parts += [template[start : match.start()], token_id]
                start = match.end()
        return [*parts, template[start:]]

    def _texts(self, question: Question) -> Iterator[str]:
        """What is to be tokenised of a question: the texts of the prompt's head, then the last alone and with each."""
        shots = self._prompt.shots
        before = self._before(shots.of(question)) if shots and self.sees_itself(question) else self._usual
        *head, last = merged([*before, *self._filled(question.goal)])
        yield from (part for part in head if isinstance(part, str))
        yield str(last)
        for solution in question.solutions:
            yield f"{last}{self._prompt.separator}{solution}"

    def sees_itself(self, question: Question) -> bool:
        """Whether a question is one of the examples that stand before all others."""
        return self._prompt.shots is not None and self._prompt.shots.holds(question)

    def _filled(self, goal: str) -> list[str | int]:
        """The template with a question in its place."""
        goal = self._prompt.goal(goal)
        return [part.replace(GOAL, goal) if isinstance(part, str) else part for part in self._template]

    def _before(self, shots: Sequence[Question]) -> list[str | int]:
        """What examples put before a prompt."""
        parts = list[str | int]()
        for shot in shots:
            parts += [*self._filled(shot.goal), self._prompt.separator + shot.solutions[shot.label] + BETWEEN]
        return merged(parts)

    def _head_ids(self, encoded: Iterator[Encoded]) -> list[int]:
        """BOS, and the tokens of all but the prompt's last text, from the texts that begin with this question's."""
        ids = [self.bos_id]
        for part in self._head:
            ids += next(encoded).ids if isinstance(part, str) else [part]
        return ids

    def _empty_prompt(self) -> list[int]:
        """The tokens of the prompt without a question.

        Raises:
            UsageError: they leave no room for a question and a solution.
        """
        texts = list(self._texts(Question(0, "", "", "", 0)))
        encoded = self._encoded(texts)
        ids = [*self._head_ids(encoded), *next(encoded).ids]
        if len(ids) >= self._context:
            shots = self._prompt.shots
            what = f"--shots {shots.count}: the prompt" if shots else "--prompt"
            raise UsageError(
                f"{what} has {len(ids)} tokens without a question, and the model's context is {self._context}.\n"
                f"No solution could be scored. Take {'fewer or shorter examples' if shots else 'a shorter one'}."
            )
        return ids

    def token_text(self, token_id: int) -> str:
        """The token as its vocabulary writes it (`▁` for a blank)."""
        return self._tokenizer.id_to_token(token_id) or ""

    def _unscorable(self, question: Question, prompt: int, lengths: Sequence[int]) -> str | None:
        for number, (text, length) in enumerate(zip(question.solutions, lengths, strict=True), start=1):
            name = f"sol{number}"
            if not text.strip():
                return f"{name} is {'only white space' if text else 'empty'}"
            if length <= prompt:
                return f"{name} has no token of its own: the tokeniser merges it into the prompt"
            if length > self._context:
                return f"{name} makes {length} tokens with its question; the model's context is {self._context}"
        return None


def _equal_at_start(tokens: Sequence[int], others: Sequence[int]) -> int:
    return next(
        (place for place, both in enumerate(zip(tokens, others, strict=False)) if both[0] != both[1]), len(others)
    )


def _share(prompt: int, texts: Sequence[list[int]]) -> Pair:
    low, high = min(texts), max(texts)  # what these begin with, all do
    alike = prompt if low[:prompt] == high[:prompt] else 0
    shared = alike + _equal_at_start(high[alike:], low[alike:])
    rests = (text[shared:] for text in texts)
    tokens = (*texts[0][:shared], *chain.from_iterable(rests))
    return Pair(tokens, shared, tuple(map(len, texts)), prompt)
