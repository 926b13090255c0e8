"""The bytes of a record: who serialises which part, and how the driver joins the parts.

A record is one line of JSON. The Gemma actor knows everything but the features and makes the frame around them; each
encoder makes the features of its layers; the driver joins bytes and parses nothing.

Every line has the same keys, and `error` is a string in all of them: libraries that settle a file's schema by its first
lines take a column of nulls for one that never holds anything, and refuse or lose the first message far behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import orjson

from layerscope.records.record import NEGATIVE, POSITIVE, choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from layerscope.questions.sources import Question

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


class Found(Protocol):
    """What an encoder found: the features to be listed of every row, strongest first."""

    @property
    def feature_ids(self) -> NDArray[np.int64]: ...  # [N]
    @property
    def activations(self) -> NDArray[np.float32]: ...  # [N]
    @property
    def starts(self) -> NDArray[np.int64]: ...  # [R + 1]; row r has starts[r]:starts[r + 1]
    @property
    def active_counts(self) -> NDArray[np.int64]: ...  # [R]; of all active features, those not listed too


@runtime_checkable
class FoundOverTokens(Found, Protocol):
    """What an encoder found over several tokens: each row is a solution, each feature where it is strongest."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...  # [N]; where a feature is strongest, from 0 within the solution
    @property
    def token_counts(self) -> NDArray[np.int64]: ...  # [N]; at how many tokens it is active


@dataclass(frozen=True)
class LayerBlock:
    """The features of a block of layers for every row of a batch, as JSON: what an encoder hands to the driver."""

    json: NDArray[np.uint8]
    """Of every row its layers' features, then its layers' counts, end to end. An array, so that it travels uncopied."""
    offsets: NDArray[np.int64]  # [2 R + 1] where each of these begins
    active_counts: NDArray[np.int64]  # [L, R]
    failed_layers: NDArray[np.int64]  # [R]; the first layer with a non-finite activation, -1 for none
    halved: bool = False
    """The rows did not fit the memory at once, so the numbers may differ in the last digit."""
    residuals: NDArray[np.floating[Any]] | None = None
    """[L, S, D] of the rows of one token each, where they are kept; lists over several tokens are behind these."""
    clamped: bool = False
    """Some of these were beyond their number format, whose largest number stands in their place."""

    @property
    def nbytes(self) -> int:
        """About what it takes."""
        return self.json.nbytes + (0 if self.residuals is None else self.residuals.nbytes)


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


def serialise_block(
    layers: Sequence[int], top_k: Sequence[Found], over_tokens: Sequence[FoundOverTokens] = ()
) -> LayerBlock:
    """The features of a block's layers as JSON, row by row: `"8":[{"feature_id":…},…],"9":[…]` and `"8":71,"9":68`.

    Args:
        top_k: of each layer, for the same R rows.
        over_tokens: of each layer, for further rows, behind those.
    """
    blocks = [_serialise(layers, found) for found in (top_k, over_tokens) if found]
    return blocks[0] if len(blocks) == 1 else _one_behind_the_other(*blocks)


def _serialise(layers: Sequence[int], top_k: Sequence[Found | FoundOverTokens]) -> LayerBlock:
    n_rows = len(top_k[0].active_counts)
    by_layer = [_features_json(layer, found) for layer, found in zip(layers, top_k, strict=True)]
    failed = np.full(n_rows, -1)
    for layer, found in reversed(list(zip(layers, top_k, strict=True))):
        failed[_rows_with(~np.isfinite(found.activations), found.starts)] = layer
    parts = []
    for row in range(n_rows):
        parts.append(b",".join(features[row] for features in by_layer))
        counts = (b'"%d":%d' % (layer, found.active_counts[row]) for layer, found in zip(layers, top_k, strict=True))
        parts.append(b",".join(counts))
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    joined = np.frombuffer(b"".join(parts), dtype=np.uint8)
    return LayerBlock(joined, offsets, np.stack([found.active_counts for found in top_k]), failed)


def _one_behind_the_other(first: LayerBlock, second: LayerBlock) -> LayerBlock:
    """The rows of two."""
    return LayerBlock(
        np.concatenate([first.json, second.json]),
        np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]),
        np.concatenate([first.active_counts, second.active_counts], axis=1),
        np.concatenate([first.failed_layers, second.failed_layers]),
    )


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


def _features_json(layer: int, found: Found | FoundOverTokens) -> list[bytes]:
    """`"layer":[…]` of every row."""
    # Joining is twice as fast as formatting feature by feature, and what stands before an activation is made once.
    pieces = [b',"layer":%d},' % layer] * (3 * len(found.feature_ids))
    if pieces:
        pieces[0::3] = _until_activation(int(found.feature_ids.max()).bit_length())[found.feature_ids].tolist()
        pieces[1::3] = _decimals(found.activations)
        if isinstance(found, FoundOverTokens):
            pieces[2::3] = _until_next(layer, found)
    opening = b'"%d":[' % layer
    rows = (b"".join(pieces[3 * start : 3 * stop]) for start, stop in pairwise(found.starts.tolist()))
    return [opening + row[:-1] + b"]" for row in rows]


@cache
def _until_activation(bits: int) -> NDArray[np.object_]:
    """A feature as JSON up to its activation, for every id of so many bits."""
    return np.array([b'{"feature_id":%d,"activation":' % number for number in range(1 << bits)], dtype=object)


def _until_next(layer: int, found: FoundOverTokens) -> list[bytes]:
    """A feature as JSON behind its activation, with where it is strongest and at how many tokens it is active."""
    pairs = zip(found.tokens.tolist(), found.token_counts.tolist(), strict=True)
    return [b',"layer":%d,"token":%d,"token_count":%d},' % (layer, *pair) for pair in pairs]


def _decimals(numbers: NDArray[np.float32]) -> list[bytes]:
    """Every number's text, the shortest decimal that gives it back, which no formatting of Python's is for float32."""
    array = orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)
    return array[1:-1].split(b",")


def _rows_with(marked: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows in which at least one feature is marked."""
    return np.unique(np.searchsorted(starts, np.flatnonzero(marked), side="right") - 1)


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
