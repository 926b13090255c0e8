"""The chart of a page with several readings: what each finds by depth, on one axis and one scale, the control last."""

from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from layerscope.analysis.columns.arrays import Ints
from layerscope.report.charts.depth_axis import LEFT, DepthAxis, auroc_scale, whisker
from layerscope.report.charts.svg import Point, Scale, curve, dot, element, line, rectangle, text, ticks
from layerscope.report.words.readings_said import Read, control_passed, lane_title, said_of_cell
from layerscope.report.words.untested import nothing_selected

_LANE, _HEAD, _GAP, _AUROC = 58, 22, 16, 110  # heights: bars of a reading, its title, what follows; the last panel
_MARKS = {"final": "●", "last-word": "○", "max": "■"}
"""How a reading's points are drawn: told apart by shape and dashes, not by colour."""


def readings_strip(reads: Sequence[Read], available: int) -> Markup:
    """A lane of confirmed features for every reading, then how well each tells the sides apart."""
    depth = DepthAxis(*reads[0], available)
    content, top = [*depth.labels(11)], 26.0
    scale = _scale(reads)
    for number, read in enumerate(reads):
        content += _lane(DepthAxis(*read, available), top, scale, read, number == 0)
        top += _HEAD + _LANE + _GAP
    if control_passed(depth.analysis.header):
        content += _control(depth, top)
        top += _HEAD + 20 + _GAP
    content += _held_out(depth, reads, top)
    top += 2 * _HEAD + _AUROC + _GAP + 6  # the lowest tick stands at the very end
    content += [*depth.labels(top)]
    label = f"{depth.contrast.name}: what each reading finds, layer by layer; the numbers are in the table below"
    return depth.drawing(top + 8, content, label)


def _sides(read: Read) -> list[tuple[str, Ints]]:
    """[L] confirmed features of either side."""
    depth, firing = DepthAxis(*read, 0), read[1].firing
    up = firing.validation.z > 0
    return [("first", depth.count(firing.confirmed & up)), ("second", depth.count(firing.confirmed & ~up))]


def _scale(reads: Sequence[Read]) -> tuple[float, float]:
    """One for all readings, so that their bars compare."""
    highest = [max([0, *(int(counts.max()) for counts in side)]) for side in _by_side(reads)]
    room = 0.21 * max(*highest, 1)  # for a side without any
    return -max(float(highest[1]), room), max(float(highest[0]), room)


def _by_side(reads: Sequence[Read]) -> list[list[Ints]]:
    return [[_sides(read)[number][1] for read in reads] for number in (0, 1)]


def _lane(depth: DepthAxis, top: float, ends: tuple[float, float], read: Read, is_first: bool) -> Iterator[Markup]:
    scale = Scale(*ends, top + _HEAD + _LANE, top + _HEAD)
    yield text((0, top + 13), lane_title(read), "title")
    for value in (value for value in (*ends, 0) if value == int(value)):
        yield text((LEFT - 8, scale(value) + 4), f"{int(abs(value)):,}", "tick", "end")
    for sign, (side, counts) in zip((1, -1), _sides(read), strict=True):
        for index, count in enumerate(counts):
            length = abs(scale(int(count)) - scale(0))
            if length:
                y = scale(0) - (length if sign > 0 else 0)
                yield rectangle(depth.x(index) - depth.bar / 2, y, depth.bar, length, f"{side} solid")
    yield line((LEFT, scale(0)), (depth.end, scale(0)), "zero")
    name = "" if is_first else f"reading={depth.analysis.options.reading}&"
    for index, layer in enumerate(depth.layers):
        said = said_of_cell(read, index)
        yield element(
            "a",
            element("title", said),
            rectangle(LEFT + depth.step * index, top + _HEAD, depth.step, _LANE, "column"),
            href=f"#{name}contrast={depth.contrast.first}&layer={layer}",
            data_layer=layer,
            aria_label=said,
            tabindex=None if index == 0 else -1,
        )


def _control(depth: DepthAxis, top: float) -> Iterator[Markup]:
    yield text((0, top + 13), "prompt, the control: check passed ✓", "title")
    y = top + _HEAD + 18
    yield line((LEFT, y), (depth.end, y), "zero")
    yield text(((LEFT + depth.end) / 2, y - 6), "no difference in any layer, as it must be", "note", "middle")


def _held_out(depth: DepthAxis, reads: Sequence[Read], top: float) -> Iterator[Markup]:
    known = [read[1].held_out for read in reads]
    low, high = auroc_scale(known)
    scale = Scale(low, high, top + 2 * _HEAD + _AUROC, top + 2 * _HEAD)
    names = [read[0].options.reading for read in reads]
    yield text((0, top + 13), "How well the selected features tell the two apart", "title")
    yield text(
        (0, top + 29),
        f"AUROC, held out, bar: its 95 % · {'  '.join(f'{_MARKS[name]} {name}' for name in names)}",
        "note",
    )
    for value in ticks(low, high, 4):
        yield line((LEFT, scale(value)), (depth.end, scale(value)), "grid")
        yield text((LEFT - 8, scale(value) + 4), f"{value:g}", "tick", "end")
    yield line((LEFT, scale(0.5)), (depth.end, scale(0.5)), "limit")
    apart = min(depth.step / (len(reads) + 1), 9)  # so that no reading's bar lies on another's
    for number, (name, found) in enumerate(zip(names, known, strict=True)):
        beside = apart * (number - (len(reads) - 1) / 2)
        points = [(depth.x(index) + beside, scale(float(value))) for index, value in enumerate(found.auroc)]
        yield curve(points, f"thread of-{name}")
        for index, point in enumerate(points):
            yield from whisker(point[0], scale, found, index)
        yield from (_mark(name, point) for point in points if point[1] == point[1])
    if all(np.isnan(found.auroc).all() for found in known):
        middle = (LEFT + depth.end) / 2
        yield text((middle, scale(0.5) - 8), nothing_selected(depth.contrast), "note", "middle")


def _mark(reading: str, at: Point) -> Markup:
    if reading == "max":
        return rectangle(at[0] - 3.6, at[1] - 3.6, 7.2, 7.2, "square")
    return dot(at, 4.0, f"ink {'solid' if reading == 'final' else 'hollow'}")
