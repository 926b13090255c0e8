"""What a record has of each reading of a solution: features of which of its tokens, and how they became one list.

The record's usual lists are of the first dictionary; further ones have the same readings, under `other_dictionaries`.

`final` stands in a solution's details themselves, where it always stood; the others under `other_readings`. All have
the same two names, so that whoever reads one of them reads any: `SolutionDetails.reading(name)`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType, field

LARGEST_FLOAT32 = 3.4028235677973366e38

Id = Annotated[int, Meta(ge=0, lt=1 << 31)]
Float32 = Annotated[float, Meta(ge=-LARGEST_FLOAT32, le=LARGEST_FLOAT32)]
Activation = Annotated[float, Meta(gt=0, le=LARGEST_FLOAT32)]


class Feature(Struct, frozen=True, gc=False):
    """A feature that is active."""

    feature_id: Id
    activation: Activation
    layer: int


class PlacedFeature(Feature, frozen=True, gc=False):
    """A feature of the reading `max`: its strongest activation over all of a solution's tokens."""

    token: Id
    """Where that is, from 0 within the solution; the earliest of several."""
    token_count: Id
    """At how many of the solution's tokens it is active."""
    token_activations: list[Float32] | UnsetType = UNSET
    """What it is at every token of the solution, 0 where it is not active; of the strongest, where asked for."""


class ReadingLists(Protocol):
    """What every reading has; layers in the file's order."""

    @property
    def active_features_by_layer(self) -> Mapping[int, Sequence[Feature]]: ...
    @property
    def active_feature_count_by_layer(self) -> Mapping[int, int]: ...


class PromptReading(Struct, frozen=True):
    """At the last token before the solution: a control, the same for both solutions."""

    active_features_by_layer: dict[int, list[Feature]]
    active_feature_count_by_layer: dict[int, Id]


class LastWordReading(Struct, frozen=True):
    """At the solution's last token with a letter or a digit in it."""

    active_features_by_layer: dict[int, list[Feature]]
    active_feature_count_by_layer: dict[int, Id]
    token: Id
    """Which that is, from 0 within the solution; the last one where none has a letter or a digit."""


class MaxReading(Struct, frozen=True):
    """Of each feature the strongest activation over all of the solution's tokens."""

    active_features_by_layer: dict[int, list[PlacedFeature]]
    active_feature_count_by_layer: dict[int, Id]
    """Features that are active at any of them."""


class OtherReadings(Struct, frozen=True):
    """All but `final`; those that the run was asked for, in this order."""

    last_word: LastWordReading | UnsetType = field(default=UNSET, name="last-word")
    max: MaxReading | UnsetType = UNSET
    prompt: PromptReading | UnsetType = UNSET

    def named(self) -> dict[str, ReadingLists]:
        """Those that are there."""
        all_of_them = {"last-word": self.last_word, "max": self.max, "prompt": self.prompt}
        return {name: reading for name, reading in all_of_them.items() if reading is not UNSET}


class OtherDictionary(Struct, frozen=True):
    """What a further dictionary has of a solution: the readings of the run, as the first has them."""

    active_features_by_layer: dict[int, list[Feature]]
    active_feature_count_by_layer: dict[int, Id]
    other_readings: OtherReadings | UnsetType = UNSET

    @property
    def readings(self) -> dict[str, ReadingLists]:
        """All that are there, by name, in the order of the record."""
        return named_readings(self)


class WithReadings(ReadingLists, Protocol):
    """What has the lists of `final` itself, and the others beside them."""

    @property
    def other_readings(self) -> OtherReadings | UnsetType: ...


def named_readings(of: WithReadings) -> dict[str, ReadingLists]:
    """All readings that are there, by name, in the order of the record; `final` is the first."""
    return {"final": of, **({} if of.other_readings is UNSET else of.other_readings.named())}
