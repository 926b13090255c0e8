"""A record: one line of an output file, its names, and what is none. Whoever reads a line gets it from `parse`.

What a later version adds to a record is passed over here, and stays in the file: no line is ever written anew from what
was read of it.
"""

import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

POSITIVE, NEGATIVE = "positive_solution_details", "negative_solution_details"
SOLUTIONS = ("positive", "negative")
"""In the order of `Record.solutions`."""

_LARGEST_FLOAT32 = 3.4028235677973366e38

Id = Annotated[int, Meta(ge=0, lt=1 << 31)]
Float32 = Annotated[float, Meta(ge=-_LARGEST_FLOAT32, le=_LARGEST_FLOAT32)]
Activation = Annotated[float, Meta(gt=0, le=_LARGEST_FLOAT32)]


class NotARecordError(ValueError):
    """A line is not what a run writes; says what is off."""


class Feature(Struct, frozen=True, gc=False):
    """A feature that is active."""

    feature_id: Id
    activation: Activation
    layer: int


class SolutionDetails(Struct, frozen=True):
    """What the model says and holds of one solution; layers in the file's order."""

    text: str
    log_likelihood: Float32
    active_features_by_layer: dict[int, list[Feature]]
    active_feature_count_by_layer: dict[int, Id]
    token_count: Id
    final_token: str

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


def check_layers(record: Record, layers: Sequence[int]) -> None:
    """Whether a record has the layers of its run, in their order.

    Raises:
        NotARecordError: it has others.
    """
    for details in record.solutions:
        for by_layer in (details.active_features_by_layer, details.active_feature_count_by_layer):
            if list(by_layer) != layers:
                raise NotARecordError(f"the layers are {_named(by_layer)}, the run's are {_named(layers)}")


def check(record: Record, top_k: int | Literal["all"], d_sae: int) -> None:
    """Checks a record against itself: what can be wrong though every name and type is right.

    Args:
        top_k: how many features a list has at most.
        d_sae: every feature's id is below it.

    Raises:
        NotARecordError: what is off.
    """
    for details in record.solutions:
        for layer, features in details.active_features_by_layer.items():
            _check_features(features, layer, details.active_feature_count_by_layer[layer], top_k, d_sae)
    if record.model_is_correct != record.correct():
        raise NotARecordError("model_is_correct does not follow from the log-likelihoods")


def _check_features(
    features: Sequence[Feature], layer: int, count: int, top_k: int | Literal["all"], d_sae: int
) -> None:
    if len(features) != (count if top_k == "all" else min(count, top_k)):
        raise NotARecordError(f"layer {layer} lists {len(features)} features of {count} active ones")
    ids = {feature.feature_id for feature in features}
    if len(ids) < len(features):
        raise NotARecordError(f"a feature of layer {layer} is listed twice")
    if ids and not (min(ids) >= 0 and max(ids) < d_sae):
        raise NotARecordError(f"a feature_id of layer {layer} is not from 0 to {d_sae - 1}")
    order = [(-feature.activation, feature.feature_id) for feature in features]
    if order != sorted(order) or any(each.layer != layer for each in features):
        raise NotARecordError(f"the features of layer {layer} are not its own, strongest first")


def choice(first: float, second: float) -> int:
    """Which solution the model prefers: 0 or 1; a tie goes to the first."""
    return 0 if first >= second else 1


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _named(layers: Sequence[int] | dict[int, Any]) -> str:
    return ", ".join(map(str, layers))
