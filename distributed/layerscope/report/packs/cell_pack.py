"""The kept features of a page, cell by cell (a question and a layer), as columns of bytes that deflate well."""

from array import array

import numpy as np
from numpy.typing import NDArray

from layerscope.analysis.columns.arrays import Ints
from layerscope.records.line.record import Record
from layerscope.report.packs.kept import Tracked
from layerscope.report.packs.token_pack import Places

_LEVELS = 253  # of a rounded activation; 0 is at most the limit of the pair, 1 is unknown


class Cells:
    """The kept features of every question and layer: those of either solution, each with both activations."""

    def __init__(
        self,
        layers: tuple[int, ...],
        strongest: int,
        tracked: Tracked,
        reading: str,
        places: Places | None = None,
    ) -> None:
        self._layers, self._strongest, self._tracked, self._reading = layers, strongest, tracked, reading
        self._places = places
        self._lengths = array("H")
        self._active = array("H")
        self.feature_id = array("I")
        # 0 is at most the pair's limit, as in the tests; -1 is unknown, because the other side is not above it either.
        self._activations = array("f"), array("f")
        self.scale = (0.0, 0.0)
        """An activation is exp(first + second * (level - 2))."""

    def add(self, record: Record) -> None:
        readings = [details.reading(self._reading) for details in record.solutions]
        for layer in self._layers:
            sides = [reading.active_features_by_layer[layer] for reading in readings]
            active = [reading.active_feature_count_by_layer[layer] for reading in readings]
            activations = [{each.feature_id: each.activation for each in side} for side in sides]
            kept = {each.feature_id for side in sides for each in side[: self._strongest]}
            kept |= self._tracked.all[layer] & (activations[0].keys() | activations[1].keys())
            self._lengths.append(len(kept))
            self._active.extend(min(count, 65535) for count in active)
            ordered = sorted(kept)
            self.feature_id.extend(ordered)
            if self._places:
                for number, side in enumerate(sides):
                    listed = {each.feature_id: each for each in side}
                    for feature_id in ordered:
                        self._places.add(number, listed.get(feature_id), feature_id in self._tracked.selected[layer])
            limit = max(
                (side[-1].activation for side, n in zip(sides, active, strict=True) if n > len(side)), default=0
            )
            for column, own, other in zip(self._activations, activations, activations[::-1], strict=True):
                for feature_id in ordered:
                    shown = own.get(feature_id)
                    column.append(shown or (0.0 if other[feature_id] > limit else -1.0))

    def columns(self) -> tuple[bytes, float]:
        """The columns as planes of bytes (which deflate well), and by how much an activation may be rounded."""
        values = [np.array(column) for column in self._activations]
        values += [self._places.by_token()] if self._places else []
        positive = np.concatenate([column[column > 0] for column in values])
        low, high = (float(np.log(edge)) for edge in (positive.min(), positive.max())) if len(positive) else (0.0, 0.0)
        step = (high - low) / (_LEVELS - 1)
        self.scale = (low, step)
        levels = [_levels(column, low, step) for column in values]
        ids = np.array(self.feature_id, dtype=np.uint32)
        planes = [*(ids >> shift & 255 for shift in (0, 8, 16, 24)), *levels[:2]]
        planes = [*_low_and_high(self._lengths), *_low_and_high(self._active), *planes]
        planes += [*self._places.planes(), *levels[2:]] if self._places else []
        return b"".join(plane.astype(np.uint8).tobytes() for plane in planes), float(np.expm1(step / 2))


def _levels(activations: NDArray[np.float32], low: float, step: float) -> NDArray[np.float64]:
    fires = activations > 0
    logarithms = np.log(np.where(fires, activations, 1))
    level = np.rint((logarithms - low) / (step or 1)) + 2
    return np.where(fires, level, np.where(activations < 0, 1, 0))


def _low_and_high(numbers: "array[int]") -> list[Ints]:
    values = np.array(numbers, dtype=np.int64)
    return [values & 255, values >> 8]
