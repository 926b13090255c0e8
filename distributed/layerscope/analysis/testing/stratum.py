"""What becomes of findings when the whole procedure is done again on a part of the data. Nothing is computed here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Survival:
    """What becomes of a test's confirmed features when all is done again with fewer pairs or features.

    kept + same_sign + other_sign + untested = confirmed before.
    """

    kept: int
    """Confirmed again, with the same sign."""
    same_sign: int
    """Tested, not confirmed; in the stratum's validation half the sign is the same."""
    other_sign: int
    """Tested, not confirmed; there the sign is not the same."""
    untested: int
    """Left out by the stratum, or too few pairs in its discovery half."""
    confirmed: int
    """All that are confirmed in the stratum, those that were not before included."""


@dataclass(frozen=True)
class Stratum:
    """The same procedure on a part of the data."""

    name: str
    """`same final token`, `full stop`, `lists not cut`, `without dense features`."""
    pairs: float
    """Share of all pairs (of pairs x layers for `lists not cut`) that it keeps."""
    firing: Survival
    magnitude: Survival
