"""How far an output file was written, as its manifest notes it."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from layerscope.records.manifest.identity import Count


class NotedTotals(Struct, frozen=True, kw_only=True):
    """What the records of the noted lines come to, so that a run goes on without parsing them: see `Totals`."""

    of: str
    """The digest of these lines: a version that knows no totals leaves those of other lines in the manifest."""
    errors: Count
    correct: Count
    correct_per_character: Count
    active_features: Count
    cells: Count


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the file was written when this was noted."""

    lines: Count
    bytes: Count
    xxh3_128: str | UnsetType = UNSET
    """Of these bytes."""
    sha256: str | UnsetType = UNSET
    """In its stead, in the first files; they stay with it."""
    running: str
    """Eight digits of that digest after every line; after every batch, where the lines are compressed. Empty where
    there are so many that they lie in `NAME.marks` alone."""
    totals: NotedTotals | UnsetType = UNSET
    """Of records; files of ablations have none, nor have those of earlier versions."""
    residuals: dict[int, str] | UnsetType | None = UNSET
    """By layer, XXH3 (128 bits) of the rows of these lines. None where it is not known; not there without residuals."""

    @property
    def marks(self) -> int:
        """How many there are in `running`."""
        return (len(self.running) + 1) // 9

    @property
    def digest(self) -> Any:
        """Of all these bytes, in hexadecimal digits."""
        return self.sha256 if self.xxh3_128 is UNSET else self.xxh3_128
