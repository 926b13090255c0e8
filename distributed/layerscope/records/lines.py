"""The bytes of a record: who serialises which part, and how the driver joins the parts.

A record is one line of JSON. The Gemma actor knows everything but the features and makes the frame around them; each
encoder makes the features of its layers; the driver joins bytes and parses nothing.

Every line has the same keys, and `error` is a string in all of them: libraries that settle a file's schema by its first
lines take a column of nulls for one that never holds anything, and refuse or lose the first message far behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from layerscope.records.record import NEGATIVE, POSITIVE, choice

if TYPE_CHECKING:
    from layerscope.questions.sources import Question
    from layerscope.records.feature_lists import LayerBlock

_FEATURES = b'"active_features_by_layer":{'
_COUNTS = b'},"active_feature_count_by_layer":{'
_NO_ERROR = b',"error":""}\n'
_UNSCORED = dict.fromkeys(("question", "model_is_correct", POSITIVE, NEGATIVE, "label"))


class SolutionScore(NamedTuple):
    """What the model says of one solution."""

    log_likelihood: float
    """Sum over the solution's tokens, natural logarithm; a float32's value."""
    token_count: int
    final_token: str
    tokens: Sequence[str] | None = None
    """What each token stands for in the solution's text, if that is to be in the record."""
    last_word: int = 0
    """The last token with a letter or a digit, from 0 within the solution, if that reading is to be in the record."""


@dataclass(frozen=True)
class Frame:
    """A record but for its features: the pieces of bytes around them, and what the summary counts."""

    example_id: int
    pieces: tuple[bytes, ...]
    """One more than there are rows."""
    rows: tuple[int, ...]
    """Of the batch's rows of features those of the positive solution, reading by reading, then the negative's."""
    correct: bool
    """The right solution has the higher log-likelihood."""
    correct_per_character: bool
    """The right solution has the higher log-likelihood per character (lm-evaluation-harness's acc_norm)."""

    @property
    def final_rows(self) -> tuple[int, int]:
        """Those of the reading `final`, which comes first of each solution."""
        return self.rows[0], self.rows[len(self.rows) // 2]


@dataclass(frozen=True)
class ErrorLine:
    """The whole line of a question that cannot be scored."""

    line: bytes


Outcome = Frame | ErrorLine


def frame_record(
    question: Question,
    scores: tuple[SolutionScore, SolutionScore],
    rows: tuple[int, int],
    others: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {}),
) -> Frame:
    """The frame of a question's record.

    Args:
        scores: of `sol1` and `sol2`.
        rows: of `sol1` and `sol2` among the batch's rows of features, for the reading `final`.
        others: the same of the other readings, by name, in the order of the record.
    """
    positive, negative = (0, 1) if question.label == 0 else (1, 0)
    texts = (question.sol1, question.sol2)
    per_character = [score.log_likelihood / len(text) for score, text in zip(scores, texts, strict=True)]
    correct = choice(scores[0].log_likelihood, scores[1].log_likelihood) == positive
    start = {"example_id": question.example_id, "question": question.goal, "model_is_correct": correct}
    first, *between, last_of_first = _around(texts[positive], scores[positive], others[positive])
    second, *more, last = _around(texts[negative], scores[negative], others[negative])
    pieces = (
        _dumps(start)[:-1] + _key(POSITIVE) + first,
        *between,
        last_of_first + _key(NEGATIVE) + second,
        *more,
        last + b',"label":%d' % question.label + _NO_ERROR,
    )
    of_readings = [(rows[solution], *others[solution].values()) for solution in (positive, negative)]
    return Frame(
        question.example_id, pieces, (*of_readings[0], *of_readings[1]), correct, choice(*per_character) == positive
    )


def error_line(example_id: int, reason: str) -> ErrorLine:
    """The line of a question that cannot be scored."""
    return ErrorLine(_dumps({"example_id": example_id, **_UNSCORED, "error": reason}) + b"\n")


def in_first_form(pieces: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The pieces of a line as files of format 1 have it: `error` only where there is one, and then nothing else."""
    *others, last = pieces
    if bytes(last[-len(_NO_ERROR) :]) == _NO_ERROR:
        return [*others, last[: -len(_NO_ERROR)], b"}\n"]
    unscored = orjson.loads(b"".join(pieces))
    return [_dumps({name: unscored[name] for name in ("example_id", "error")}) + b"\n"]


def join_record(frame: Frame, blocks: Sequence[LayerBlock]) -> list[bytes | memoryview]:
    """The pieces of a record's line, in order, to be written one after the other; the features are not copied."""
    pieces: list[bytes | memoryview] = []
    for piece, row in zip(frame.pieces, frame.rows, strict=False):
        pieces += [piece, *_comma_separated(blocks, 2 * row), _COUNTS, *_comma_separated(blocks, 2 * row + 1)]
    return [*pieces, frame.pieces[-1]]


def settle(outcome: Outcome, blocks: Sequence[LayerBlock]) -> Outcome:
    """The outcome, or the error line of a record one of whose features is not finite: the first layer is named."""
    if isinstance(outcome, ErrorLine):
        return outcome
    layers = [
        int(block.failed_layers[row]) for block in blocks for row in outcome.rows if block.failed_layers[row] >= 0
    ]
    return (
        error_line(outcome.example_id, f"non-finite feature activation at layer {min(layers)}") if layers else outcome
    )


def _comma_separated(blocks: Sequence[LayerBlock], part: int) -> list[bytes | memoryview]:
    pieces: list[bytes | memoryview] = []
    for block in blocks:
        pieces += [b",", block.json[block.offsets[part] : block.offsets[part + 1]].data]
    return pieces[1:]


def _key(name: str) -> bytes:
    return b',"%s":' % name.encode()


def _around(text: str, score: SolutionScore, others: Mapping[str, int]) -> list[bytes]:
    """A solution's details but for the features of its readings: the pieces around them, one more than readings."""
    start = {"text": text, "log_likelihood": np.float32(score.log_likelihood)}
    end: dict[str, Any] = {"token_count": score.token_count, "final_token": score.final_token}
    if score.tokens is not None:
        end["tokens"] = list(score.tokens)
    pieces = [_dumps(start)[:-1] + b"," + _FEATURES, b"}," + _dumps(end)[1:]]
    if others:
        pieces[-1] = pieces[-1][:-1] + b',"other_readings":{'
        for name in others:
            pieces[-1] += b'"%s":{' % name.encode() + _FEATURES
            pieces.append(b'},"token":%d},' % score.last_word if name == "last-word" else b"}},")
        pieces[-1] = pieces[-1][:-1] + b"}}"
    return pieces


def _dumps(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
