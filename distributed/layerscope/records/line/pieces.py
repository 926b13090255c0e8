"""The pieces of bytes around a record's features, as a frame is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

FEATURES = b'"active_features_by_layer":{'
COUNTS = b'},"active_feature_count_by_layer":{'


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


class Pieces:
    """The pieces of a frame as they are put together."""

    def __init__(self, start: bytes) -> None:
        self.all = [start]

    def add(self, before: bytes, pieces: Sequence[bytes]) -> None:
        """Pieces that follow, the first of them without features between."""
        first, *rest = pieces
        self.all[-1] += before + first
        self.all += rest

    def add_attributions(self, name: str, after: bytes) -> None:
        """What is around attributions at the end of an object, which ended with its brace."""
        self.all[-1] = self.all[-1][:-1] + as_key(name) + b"{"
        self.all.append(after)

    def end_with(self, last: bytes) -> None:
        """What comes in place of the last brace."""
        self.all[-1] = self.all[-1][:-1] + last


def as_key(name: str) -> bytes:
    return b',"%s":' % name.encode()


def around_other(
    index: int,
    text: str,
    score: SolutionScore,
    rows: Sequence[int | None],
    others: Sequence[Mapping[str, int]],
    dictionaries: Mapping[str, int],
) -> list[bytes]:
    """`_around` of a wrong solution that is not the strongest, or the whole of it where no features are recorded."""
    if rows[index] is not None:
        return around(text, score, others[index], dictionaries, {"index": index})
    log_likelihood = np.float32(score.log_likelihood)
    whole = {"index": index, "text": text, "log_likelihood": log_likelihood, "token_count": score.token_count}
    return [dumps(whole)]


def around(
    text: str,
    score: SolutionScore,
    others: Mapping[str, int],
    dictionaries: Mapping[str, int],
    before: Mapping[str, int] = {},
) -> list[bytes]:
    """A solution's details but for features: the pieces around its lists, those of the first dictionary first."""
    start = {**before, "text": text, "log_likelihood": np.float32(score.log_likelihood)}
    end: dict[str, Any] = {"token_count": score.token_count, "final_token": score.final_token}
    if score.tokens is not None:
        end["tokens"] = list(score.tokens)
    pieces = [dumps(start)[:-1] + b"," + FEATURES, b"}," + dumps(end)[1:-1]]
    _add_readings(pieces, others, score)
    if dictionaries:
        pieces[-1] += b',"other_dictionaries":{'
        for name in dictionaries:
            pieces[-1] += b'"%s":{' % name.encode() + FEATURES
            pieces.append(b"}")
            _add_readings(pieces, others, score)
            pieces[-1] += b"},"
        pieces[-1] = pieces[-1][:-1] + b"}"
    pieces[-1] += b"}"
    return pieces


def _add_readings(pieces: list[bytes], others: Mapping[str, int], score: SolutionScore) -> None:
    """What is around the lists of readings but `final`, at the end of an object that is open yet."""
    if others:
        pieces[-1] += b',"other_readings":{'
        for name in others:
            pieces[-1] += b'"%s":{' % name.encode() + FEATURES
            pieces.append(b'},"token":%d},' % score.last_word if name == "last-word" else b"}},")
        pieces[-1] = pieces[-1][:-1] + b"}"


def dumps(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
