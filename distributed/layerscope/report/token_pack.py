"""Tokens one can look at: where each lies in the text that is shown, and at which one a feature is strongest.

Only of the reading `max`, in files that have the tokens. What a feature does at a solution's other tokens is not in
them.
"""

from array import array

import numpy as np

from layerscope.analysis.result import Ints
from layerscope.formatting import visible
from layerscope.records.manifest import Settings
from layerscope.records.readings import Feature, PlacedFeature
from layerscope.records.record import Record

NOWHERE = 65535
"""A token past the last that fits two bytes, or of a feature that is not listed."""


def has_places(settings: Settings, reading: str) -> bool:
    """Whether the page can show a reading's features at their tokens."""
    return reading == "max" and settings.tokens


def pieces(record: Record) -> tuple[list[int], list[int]] | None:
    """How much of a solution's text, as it is shown, each of its tokens is, in the units in which scripts count.

    None where the run kept no tokens, or where what is shown is not made token by token.
    """
    lengths = []
    for details in record.solutions:
        shown = [_units(token) for token in details.tokens or ()]
        if sum(shown) != _units(details.text):
            return None
        lengths.append(shown)
    return lengths[0], lengths[1]


def _units(text: str) -> int:
    return len(visible(text).encode("utf-16-le", "surrogatepass")) // 2


class Places:
    """Of every entry of a page where the feature is strongest and at how many tokens it is active, on either side."""

    def __init__(self) -> None:
        self._columns = tuple((array("H"), array("H")) for _ in range(2))

    def add(self, side: int, feature: Feature | None) -> None:
        token, count = self._columns[side]
        placed = feature if isinstance(feature, PlacedFeature) else None
        token.append(min(placed.token, NOWHERE) if placed else NOWHERE)
        count.append(min(placed.token_count, NOWHERE) if placed else 0)

    def planes(self) -> list[Ints]:
        """Low and high bytes of tokens and counts, of the right solution before those of the wrong one."""
        columns = [np.array(column, dtype=np.int64) for side in self._columns for column in side]
        return [plane for column in columns for plane in (column & 255, column >> 8)]
