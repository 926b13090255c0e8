"""Tokens one can look at: where each lies in the text that is shown, and what a feature is there.

Only of the reading `max`, in files that have the tokens. At which token a feature is strongest is always in them, what
it is at the others in those of a run with `--token-activations`.
"""

from array import array

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Ints
from layerscope.formatting import visible
from layerscope.records.line.readings import Feature, PlacedFeature
from layerscope.records.line.record import Record
from layerscope.records.manifest.identity import Settings

NOWHERE = 65535
"""A token past the last that fits two bytes, or of a feature that is not listed."""
_ROOM = 1_000_000  # activations at tokens that a page keeps, at most


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
    """Of every entry of a page, on either side: where the feature is strongest, and at how many tokens it is active.

    What it is at each of them, too, as far as there is room for it.
    """

    def __init__(self, estimate: int = 0) -> None:
        """
        Args:
            estimate: about how many activations at tokens all entries together have; of more than there is room for,
                those of the features that the tests selected are kept, which are the surest.
        """
        self._columns = tuple((array("H"), array("H")) for _ in range(2))
        self._kept, self._values = (array("B"), array("B")), (array("f"), array("f"))
        self.selected_only = estimate > _ROOM
        self.left_out = 0
        """Entries whose activations at tokens found no room."""

    def add(self, side: int, feature: Feature | None, selected: bool) -> None:
        token, count = self._columns[side]
        placed = feature if isinstance(feature, PlacedFeature) else None
        token.append(min(placed.token, NOWHERE) if placed else NOWHERE)
        count.append(min(placed.token_count, NOWHERE) if placed else 0)
        values = placed.token_activations if placed and (selected or not self.selected_only) else UNSET
        if values is not UNSET and sum(map(len, self._values)) + len(values) > _ROOM:
            values, self.left_out = UNSET, self.left_out + 1
        self._kept[side].append(values is not UNSET)
        self._values[side].extend(() if values is UNSET else values)

    def planes(self) -> list[Ints]:
        """Low and high bytes of tokens and counts, of the right solution before those of the wrong one.

        Behind them, a byte an entry, whether its activations at tokens follow.
        """
        columns = [np.array(column, dtype=np.int64) for side in self._columns for column in side]
        kept = [np.array(column, dtype=np.int64) for column in self._kept]
        return [*(plane for column in columns for plane in (column & 255, column >> 8)), *kept]

    def by_token(self) -> NDArray[np.float32]:
        """Activations at every token, of the entries that have them, of the right solutions before the wrong ones."""
        return np.concatenate([np.array(column) for column in self._values])
