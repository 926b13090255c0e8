"""The axis that the charts over depth share: the layers on a line, what is written and pointed at along it.

A chart is drawn for a width, so that its type keeps its size; the page shows the one that fits the screen.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from layerscope.analysis.columns.arrays import Bools, Floats, Ints
from layerscope.analysis.result import Analysis, Contrast, Tested
from layerscope.analysis.testing.held_out import HeldOut
from layerscope.report.charts.svg import Scale, drawing, element, line, rectangle, spread, text
from layerscope.report.words.sentences import said_of_layer

WIDE, NARROW = 1120, 348  # pixels of a chart on a screen and on a telephone
LEFT, RIGHT = 50, 12  # beside the layers


class LayerAxis:
    """Layers laid out on a line for a width."""

    def __init__(self, layers: Sequence[int], available: int) -> None:
        self.layers, self._available = layers, available
        self.step = min((available - LEFT - RIGHT) / len(layers), 90)
        self.end = LEFT + self.step * len(layers)
        self.width = min(available, max(self.end + RIGHT, 640))
        """Of the drawing: what the layers need, and never less than the titles do."""
        self.bar = min(self.step * 0.72, 44)

    def x(self, index: int) -> float:
        """The middle of the layer with this index."""
        return LEFT + self.step * (index + 0.5)

    def labels(self, y: float) -> Iterator[Markup]:
        shown = spread(self.layers, int((self.end - LEFT) / 24))
        yield text((0, y), "layer", "tick")
        for index, layer in enumerate(self.layers):
            if layer in shown:
                yield text((self.x(index), y), layer, "tick", "middle")

    def drawing(self, height: float, content: Sequence[Markup], label: str, columns: str | None = None) -> Markup:
        kind = "chart wide" if self._available == WIDE else "chart narrow"
        return drawing(self.width, height, *content, kind=kind, label=label, columns=columns)


class DepthAxis(LayerAxis):
    """A contrast with its layers laid out on a line."""

    def __init__(self, analysis: Analysis, contrast: Contrast, available: int) -> None:
        super().__init__([int(layer) for layer in analysis.layers.layer], available)
        self.analysis, self.contrast = analysis, contrast

    @cached_property
    def rows(self) -> list[Ints]:
        """The features of each layer, as rows of the analysis."""
        layer = self.analysis.features.layer
        starts = np.searchsorted(layer, [*self.layers, np.iinfo(np.int64).max])
        return [np.arange(start, end) for start, end in pairwise(starts)]

    def count(self, marked: Bools) -> Ints:
        """Marked features per layer."""
        return np.array([int(marked[rows].sum()) for rows in self.rows])

    def columns(self, top: float, bottom: float, told: Sequence[str] | None = None) -> Iterator[Markup]:
        """What is pointed at, clicked and reached by the keyboard: a link over each layer, to its table.

        Args:
            told: of every layer, if not what there is to say of the contrast.
        """
        for index, layer in enumerate(self.layers):
            said = told[index] if told else said_of_layer(self.analysis, self.contrast, index)
            area = rectangle(LEFT + self.step * index, top, self.step, bottom - top, "column")
            href = f"#contrast={self.contrast.first}&layer={layer}"
            yield element("a", element("title", said), area, href=href, data_layer=layer, aria_label=said)


def auroc_scale(of: Sequence[HeldOut]) -> tuple[float, float]:
    """The ends of an axis for held-out AUROCs with their intervals; chance is never at its edge."""
    columns = [values for each in of for values in (each.auroc, each.auroc_low, each.auroc_high)]
    known = [float(value) for values in columns for value in values if value == value]
    return min([0.45, *known]), max([0.65, *known])


def whisker(x: float, scale: Scale, of: HeldOut, index: int) -> Iterator[Markup]:
    """The interval of a layer's AUROC; nothing where there are too few goal groups for one."""
    yield from bar(x, scale, (of.auroc_low[index], of.auroc_high[index]))


def bar(x: float, scale: Scale, interval: Sequence[float] | Floats) -> Iterator[Markup]:
    """An interval, as far as the axis goes; nothing where there is none."""
    low, high = (float(end) for end in interval)
    if low == low:
        low, high = max(low, min(scale.low, scale.high)), min(high, max(scale.low, scale.high))
        yield line((x, scale(low)), (x, scale(high)), "whisker")


def strongest_first(tested: Tested[Any], rows: Ints) -> Ints:
    """The rows by |z| of the discovery half, the surest first."""
    amount: Floats = np.abs(tested.discovery.z[rows])
    return rows[np.argsort(-amount, kind="stable")]
