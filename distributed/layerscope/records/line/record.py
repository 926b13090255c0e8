"""A record: one line of an output file, its names, and what is none. Whoever reads a line gets it from `parse`.

What a later version adds to a record is passed over here, and stays in the file: no line is ever written anew from what
was read of it.
"""

import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from layerscope.records.line.attributions import AttributedFeature, Attributions, AttributionTerms
from layerscope.records.line.readings import (
    Feature,
    Float32,
    Id,
    OtherDictionary,
    OtherReadings,
    ReadingLists,
    named_readings,
)

POSITIVE, NEGATIVE = "positive_solution_details", "negative_solution_details"
OTHERS, METADATA = "others", "metadata"
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
    other_dictionaries: dict[str, OtherDictionary] | UnsetType = UNSET
    """By name, the same of further dictionaries. Only where the run was asked for them."""
    attributions_by_layer: dict[int, list[AttributedFeature]] | UnsetType = UNSET
    """Over the tokens that the solution does not share. Only where the run was asked for it, and so the terms."""
    attribution_terms_by_layer: dict[int, AttributionTerms] | UnsetType = UNSET

    @property
    def readings(self) -> dict[str, ReadingLists]:
        """All that are there, by name, in the order of the record; `final` is the first."""
        return named_readings(self)

    def reading(self, name: str) -> ReadingLists:
        """The features of a reading that the file has."""
        return self.readings[name]

    @property
    def score(self) -> float:
        """The log-likelihood, as the float32 that was written and not as the decimal that gives it back."""
        return _float32(self.log_likelihood)


class OtherSolution(Struct, frozen=True):
    """A wrong solution that is not the strongest; its features only where the run was asked for all solutions."""

    index: Id
    """Which of the question's solutions it is, from 0, in the order of the question file."""
    text: str
    log_likelihood: Float32
    token_count: Id
    active_features_by_layer: dict[int, list[Feature]] | UnsetType = UNSET
    active_feature_count_by_layer: dict[int, Id] | UnsetType = UNSET
    final_token: str | UnsetType = UNSET
    tokens: list[str] | UnsetType = UNSET
    other_readings: OtherReadings | UnsetType = UNSET
    other_dictionaries: dict[str, OtherDictionary] | UnsetType = UNSET

    @property
    def score(self) -> float:
        """The log-likelihood, as the float32 that was written."""
        return _float32(self.log_likelihood)

    @property
    def details(self) -> SolutionDetails | None:
        """As those of the positive and the negative solution; None where its features were not recorded."""
        features, counts, final = self.active_features_by_layer, self.active_feature_count_by_layer, self.final_token
        if isinstance(features, UnsetType) or isinstance(counts, UnsetType) or isinstance(final, UnsetType):
            return None
        scored = (self.text, self.log_likelihood, features, counts, self.token_count, final)
        return SolutionDetails(*scored, self.tokens, self.other_readings, self.other_dictionaries)


class Record(Struct, frozen=True):
    """The line of a scored question."""

    example_id: Id
    question: str
    model_is_correct: bool
    positive: SolutionDetails = field(name=POSITIVE)
    negative: SolutionDetails = field(name=NEGATIVE)
    label: Id
    """Which solution is the right one, from 0, in the order of the question file."""
    error: Literal["", None] = None
    """Empty; missing in files of format 1."""
    others: list[OtherSolution] | UnsetType = UNSET
    """The wrong solutions but for the strongest, in the order of the question file; only in files with such."""
    metadata: dict[str, Any] | UnsetType = UNSET
    """Other columns of the question; only where the run was asked for them."""
    common_attributions_by_layer: dict[int, list[AttributedFeature]] | UnsetType = UNSET
    """Over the tokens that all solutions begin with; and so on, as in a solution's details."""
    common_attribution_terms_by_layer: dict[int, AttributionTerms] | UnsetType = UNSET
    prompt_attributions_by_layer: dict[int, list[AttributedFeature]] | UnsetType = UNSET
    """Over the prompt's tokens but for BOS."""
    prompt_attribution_terms_by_layer: dict[int, AttributionTerms] | UnsetType = UNSET

    @property
    def solutions(self) -> tuple[SolutionDetails, SolutionDetails]:
        """The right one and the strongest wrong one: of two, the other."""
        return self.positive, self.negative

    @property
    def more(self) -> Sequence[OtherSolution]:
        """The wrong solutions but for the strongest; none where there are two solutions."""
        return [] if self.others is UNSET else self.others

    @property
    def recorded(self) -> list[SolutionDetails]:
        """All solutions whose features are in the record; the right one and the strongest wrong one come first."""
        return [*self.solutions, *(details for other in self.more if (details := other.details) is not None)]

    @property
    def in_order(self) -> list[SolutionDetails | OtherSolution]:
        """All solutions, in the order of the question file."""
        found: dict[int, SolutionDetails | OtherSolution] = {other.index: other for other in self.more}
        found[self.label] = self.positive
        found[self.negative_index] = self.negative
        return [found[index] for index in sorted(found)]

    @property
    def negative_index(self) -> int:
        """Which solution the strongest wrong one is, from 0, in the order of the question file."""
        taken = {self.label, *(other.index for other in self.more)}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    @property
    def attributions(self) -> dict[str, Attributions]:
        """Those of each group of tokens, by name: the two solutions' own, the common ones, the prompt."""
        groups = {
            "positive": (self.positive.attributions_by_layer, self.positive.attribution_terms_by_layer),
            "negative": (self.negative.attributions_by_layer, self.negative.attribution_terms_by_layer),
            "common": (self.common_attributions_by_layer, self.common_attribution_terms_by_layer),
            "prompt": (self.prompt_attributions_by_layer, self.prompt_attribution_terms_by_layer),
        }
        return {
            name: Attributions(lists, terms)
            for name, (lists, terms) in groups.items()
            if not isinstance(lists, UnsetType) and not isinstance(terms, UnsetType)
        }

    @property
    def margin(self) -> float:
        """log-likelihood(positive) - log-likelihood(negative), in double precision."""
        return self.positive.score - self.negative.score

    @property
    def margin_to_mean(self) -> float:
        """log-likelihood(positive) less the mean of all wrong solutions', in double precision."""
        wrong = [self.negative.score, *(other.score for other in self.more)]
        return self.positive.score - sum(wrong) / len(wrong)

    def correct(self) -> bool:
        """Whether the right solution has the highest log-likelihood."""
        return choice(*(solution.score for solution in self.in_order)) == self.label

    def correct_per_character(self) -> bool:
        """Whether it has the highest log-likelihood per character (lm-evaluation-harness's acc_norm)."""
        return choice(*(solution.score / len(solution.text) for solution in self.in_order)) == self.label


class Unscored(Struct, frozen=True):
    """The line of a question that cannot be scored."""

    example_id: Id
    error: Annotated[str, Meta(min_length=1)]
    question: None = None
    model_is_correct: None = None
    positive: None = field(default=None, name=POSITIVE)
    negative: None = field(default=None, name=NEGATIVE)
    label: None = None
    metadata: dict[str, Any] | UnsetType = UNSET


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
    if not all([*(details.text for details in record.solutions), *(other.text for other in record.more)]):
        raise NotARecordError("a solution's text is empty")
    indices = [other.index for other in record.more]
    if indices != sorted(set(indices) - {record.label}) or max(record.label, *indices, 0) > len(indices) + 1:
        raise NotARecordError(f"the label {record.label} and the others' places {indices} are not of one question")
    return record


def _is_error(value: object) -> bool:
    return isinstance(value, dict) and value.get("error") not in (None, "")


def choice(*scores: float) -> int:
    """Which solution the model prefers, from 0; a tie goes to the earlier."""
    return scores.index(max(scores))


def strongest_wrong(scores: Sequence[float], label: int) -> int:
    """Which of the wrong solutions the model prefers, from 0; a tie goes to the earlier.

    Args:
        scores: log-likelihoods of all solutions.
        label: the right one.
    """
    return max((index for index in range(len(scores)) if index != label), key=scores.__getitem__)


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
