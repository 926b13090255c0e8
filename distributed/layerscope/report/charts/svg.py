"""Inline SVG from Python: elements whose text is escaped, scales, ticks. Knows nothing of what is drawn.

Colours are classes, so that they follow the page's theme; nothing here needs JavaScript or a style attribute.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup, escape

Point = tuple[float, float]


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element; `class_` is `class`, `aria_label` is `aria-label`; attributes that are None are left out."""
    written = Markup().join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _text(value))
        for name, value in attributes.items()
        if value is not None
    )
    content = Markup().join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, content)


def drawing(
    width: float, height: float, *children: object, kind: str, label: str, columns: str | None = None
) -> Markup:
    """An SVG of a size in CSS pixels, scaled down only where there is less room.

    Args:
        columns: the names of the numbers in its marks' `data-row`, as a line of CSV, where they have any.
    """
    size = {"viewBox": f"0 0 {_text(width)} {_text(height)}", "width": width, "height": height}
    return element("svg", *children, class_=kind, role="group", aria_label=label, data_columns=columns, **size)


def text(at: Point, content: object, kind: str = "", anchor: str | None = None) -> Markup:
    return element("text", content, x=at[0], y=at[1], class_=kind or None, text_anchor=anchor)


def line(start: Point, end: Point, kind: str) -> Markup:
    return element("path", d=_path((start, end)), class_=kind)


def rectangle(x: float, y: float, width: float, height: float, kind: str, *children: object) -> Markup:
    return element("rect", *children, x=x, y=y, width=max(width, 0), height=max(height, 0), class_=kind)


def dot(at: Point, radius: float, kind: str, *children: object, row: str | None = None) -> Markup:
    """
    Args:
        row: its numbers, as a line of CSV, where the drawing has `columns`.
    """
    return element("circle", *children, cx=at[0], cy=at[1], r=radius, class_=kind, data_row=row)


def polygon(corners: Sequence[Point], kind: str) -> Markup:
    return element("path", d=_path(corners) + "Z", class_=kind)


def curve(points: Iterable[Point], kind: str) -> Markup:
    """A line through points, broken where a value is NaN."""
    return element("path", d="".join(_path(piece) for piece in _pieces(points)), class_=kind)


def area(points: Iterable[Point], base: float, kind: str) -> Markup:
    """What lies between such a line and a height."""
    closed = ([(piece[0][0], base), *piece, (piece[-1][0], base)] for piece in _pieces(points))
    return element("path", d="".join(_path(piece) + "Z" for piece in closed), class_=kind)


def band(lower: Sequence[Point], upper: Sequence[Point], kind: str) -> Markup:
    """What lies between two lines over the same places, broken where either is NaN."""
    both = [
        (low, high) if low[1] == low[1] and high[1] == high[1] else None for low, high in zip(lower, upper, strict=True)
    ]
    stretches = [list(group) for there, group in groupby(both, lambda each: each is not None) if there]
    pieces = [[each for each in stretch if each is not None] for stretch in stretches]
    around = [
        [*(low for low, _ in piece), *(high for _, high in reversed(piece))] for piece in pieces if len(piece) > 1
    ]
    return element("path", d="".join(_path(points) + "Z" for points in around), class_=kind)


@dataclass(frozen=True)
class Scale:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / ((self.high - self.low) or 1)


def ticks(low: float, high: float, about: int = 3) -> list[float]:
    """Round numbers from `low` to `high`, about so many, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [round(n * step, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def spread(wanted: Iterable[int], room: int) -> list[int]:
    """As many of the numbers as there is room for, evenly: every one, every second, every fifth …"""
    numbers = list(wanted)
    for every in (1, 2, 5, 10, 20, 50, 100):
        if len(numbers) <= room * every:
            return [number for index, number in enumerate(numbers) if index % every == 0]
    return numbers[:1]


def _pieces(points: Iterable[Point]) -> list[list[Point]]:
    """The stretches of two points and more between those that are NaN."""
    pieces: list[list[Point]] = [[]]
    for point in points:
        if math.isnan(point[1]):
            pieces.append([])
        else:
            pieces[-1].append(point)
    return [piece for piece in pieces if len(piece) > 1]


def _path(points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{_text(x)} {_text(y)}" for x, y in points)


def _text(value: object) -> str:
    """A number in tenths of a pixel, anything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
