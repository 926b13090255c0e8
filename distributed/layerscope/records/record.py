"""A record: one line of an output file, its names, and what is none. Whoever reads a line gets it from `parse`.

What a later version adds to a record is passed over here, and stays in the file: no line is ever written anew from what
was read of it.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from layerscope.records.readings import Feature, Float32, Id, OtherReadings, ReadingLists

POSITIVE, NEGATIVE = "positive_solution_details", "negative_solution_details"
SOLUTIONS = ("positive", "negative")
"""In the order of `Record.solutions`."""


class NotARecordError(ValueError):
    """A line is not what a run writes; says what is off."""


class SolutionDetails(Struct, frozen=True):
    """What the model says and holds of one solution; layers in the file's order."""

    text: str
    log_likelihood: Float32
    active_features_by_layer: dict[int, list[Feature]]
    active_feature_count_by_layer: dict[int, Id]
    token_count: Id
    final_token: str
    tokens: list[str] | UnsetType = UNSET
    """What each token stands for in the text; joined they are the text. Only where the run was asked for it."""
    other_readings: OtherReadings | UnsetType = UNSET
    """Only where the run was asked for it."""

    @property
    def readings(self) -> dict[str, ReadingLists]:
        """All that are there, by name, in the order of the record; `final` is the first."""
        others = {} if self.other_readings is UNSET else self.other_readings.named()
        return {"final": self, **others}

    def reading(self, name: str) -> ReadingLists:
        """The features of a reading that the file has."""
        return self.readings[name]

    @property
    def score(self) -> float:
        """The log-likelihood, as the float32 that was written and not as the decimal that gives it back."""
        return _float32(self.log_likelihood)


class Record(Struct, frozen=True):
    """The line of a scored question."""

    example_id: Id
    question: str
    model_is_correct: bool
    positive: SolutionDetails = field(name=POSITIVE)
    negative: SolutionDetails = field(name=NEGATIVE)
    label: Literal[0, 1]
    error: Literal["", None] = None
    """Empty; missing in files of format 1."""

    @property
    def solutions(self) -> tuple[SolutionDetails, SolutionDetails]:
        """The right one and the other."""
        return self.positive, self.negative

    @property
    def margin(self) -> float:
        """log-likelihood(positive) - log-likelihood(negative), in double precision."""
        return self.positive.score - self.negative.score

    def correct(self) -> bool:
        """Whether the right solution has the higher log-likelihood."""
        return self._preferred(self.positive.score, self.negative.score)

    def correct_per_character(self) -> bool:
        """Whether it has the higher log-likelihood per character (lm-evaluation-harness's acc_norm)."""
        return self._preferred(*(details.score / len(details.text) for details in self.solutions))

    def _preferred(self, positive: float, negative: float) -> bool:
        first, second = (positive, negative) if self.label == 0 else (negative, positive)
        return choice(first, second) == self.label


class Unscored(Struct, frozen=True):
    """The line of a question that cannot be scored."""

    example_id: Id
    error: Annotated[str, Meta(min_length=1)]
    question: None = None
    model_is_correct: None = None
    positive: None = field(default=None, name=POSITIVE)
    negative: None = field(default=None, name=NEGATIVE)
    label: None = None


_record, _unscored, _anything = msgspec.json.Decoder(Record), msgspec.json.Decoder(Unscored), msgspec.json.Decoder(Any)


def parse(line: bytes) -> Record | Unscored:
    """The record that a line holds.

    Raises:
        NotARecordError: it holds none.
    """
    try:
        try:
            record = _record.decode(line)
        except msgspec.ValidationError:
            if _is_error(_anything.decode(line)):
                return _unscored.decode(line)
            raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecordError(str(error).replace("`$`", "the line").replace("`$.", "`")) from error
    if not (record.positive.text and record.negative.text):
        raise NotARecordError("a solution's text is empty")
    return record


def _is_error(value: object) -> bool:
    return isinstance(value, dict) and value.get("error") not in (None, "")


def check_parts(record: Record, layers: Sequence[int], readings: Sequence[str], tokens: bool) -> None:
    """Whether a record has the layers and readings of its run, in their order, and tokens or none.

    Raises:
        NotARecordError: it has others.
    """
    for details in record.solutions:
        if list(details.readings) != list(readings):
            raise NotARecordError(f"the readings are {_named(details.readings)}, the run's are {_named(readings)}")
        if (details.tokens is not UNSET) != tokens:
            raise NotARecordError(
                f"a solution has {'no tokens' if tokens else 'tokens, which the run was not asked for'}"
            )
        for reading in details.readings.values():
            for by_layer in (reading.active_features_by_layer, reading.active_feature_count_by_layer):
                if list(by_layer) != layers:
                    raise NotARecordError(f"the layers are {_named(by_layer)}, the run's are {_named(layers)}")


def choice(first: float, second: float) -> int:
    """Which solution the model prefers: 0 or 1; a tie goes to the first."""
    return 0 if first >= second else 1


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _named(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
