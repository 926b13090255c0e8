"""The chart of two runs by depth: what each finds, how well that tells, and how many features are the same."""

from collections.abc import Iterator

from markupsafe import Markup

from layerscope.analysis.columns.arrays import Ints
from layerscope.report.charts.depth_axis import LEFT, LayerAxis, auroc_scale, bar, whisker
from layerscope.report.charts.svg import Scale, curve, dot, element, line, rectangle, text, ticks
from layerscope.report.sides import Side, Sides
from layerscope.report.words.depth_said import auroc_interval
from layerscope.report.words.untested import is_untested, nothing_selected

_LANE, _HEAD, _GAP, _AUROC, _SAME = 60, 27, 20, 110, 60


def sides_strip(sides: Sides, available: int) -> Markup:
    """A lane of confirmed features for each, on one scale, then both AUROCs, then the overlap of their lists."""
    axis, top = LayerAxis(sides.layers, available), 26.0
    counts = [side.counts(sides.layers) for side in sides.both]
    room = max(1, *(int(each.max(initial=0)) for side in counts for each in side))
    ends = tuple(max([room * 0.21, *(float(side[way].max(initial=0)) for side in counts)]) for way in (0, 1))
    content = [*axis.labels(11)]
    for side, of_side in zip(sides.both, counts, strict=True):
        content += _lane(axis, top, (-ends[1], ends[0]), side, of_side)
        top += _HEAD + _LANE + _GAP
    content += _held_out(axis, top, sides)
    top += 2 * _HEAD + _AUROC + _GAP
    if sides.same:
        content += _overlap(axis, top, sides)
        top += 2 * _HEAD + _SAME + _GAP
    content += [*axis.labels(top), *_pointed_at(axis, top - 14, sides)]
    return axis.drawing(top + 8, content, "Both runs, layer by layer; their numbers are in the table below")


def _lane(
    axis: LayerAxis, top: float, ends: tuple[float, float], side: Side, counts: tuple[Ints, Ints]
) -> Iterator[Markup]:
    scale = Scale(*ends, top + _HEAD + _LANE, top + _HEAD)
    found = "not known, too few pairs" if is_untested(side.found.contrast) else f"{side.confirmed:,} confirmed"
    ways = element("tspan", "▲ right ", class_="first") + element("tspan", "▼ wrong", class_="second")
    yield text((0, top + 13), Markup("{}: {}   {}").format(side.letter, found, ways), "title")
    for value in sorted({0.0, *(end for end in ends if end == int(end))}):
        yield text((LEFT - 8, scale(value) + 4), f"{int(abs(value)):,}", "tick", "end")
    for sign, kind, of_way in ((1, "first", counts[0]), (-1, "second", counts[1])):
        for index, count in enumerate(of_way):
            length = abs(scale(int(count)) - scale(0))
            if length:
                y = scale(0) - (length if sign > 0 else 0)
                yield rectangle(axis.x(index) - axis.bar / 2, y, axis.bar, length, f"{kind} solid")
    yield line((LEFT, scale(0)), (axis.end, scale(0)), "zero")


def _held_out(axis: LayerAxis, top: float, sides: Sides) -> Iterator[Markup]:
    of_both = [side.found.contrast.held_out for side in sides.both]
    low, high = auroc_scale(of_both)
    scale = Scale(low, high, top + 2 * _HEAD + _AUROC, top + 2 * _HEAD)
    yield text((0, top + 13), "How well they tell right from wrong", "title")
    yield text((0, top + 29), "AUROC, held out, bar: its 95 % · ● A  ○ B", "note")
    for value in ticks(low, high, 4):
        yield line((LEFT, scale(value)), (axis.end, scale(value)), "grid")
        yield text((LEFT - 8, scale(value) + 4), f"{value:g}", "tick", "end")
    yield line((LEFT, scale(0.5)), (axis.end, scale(0.5)), "limit")
    beside, drawn = min(axis.step / 6, 5), 0
    for side, held_out, kind, way in zip(sides.both, of_both, ("solid", "hollow"), (-1, 1), strict=True):
        places = [(index, side.index(layer)) for index, layer in enumerate(sides.layers)]
        nan = float("nan")
        points = [
            (axis.x(index) + way * beside, scale(nan if own is None else float(held_out.auroc[own])))
            for index, own in places
        ]
        yield curve(points, "thread" if way < 0 else "thread of-max")
        for point, (_, own) in zip(points, places, strict=True):
            if own is not None and point[1] == point[1]:
                drawn += 1
                yield from whisker(point[0], scale, held_out, own)
                yield dot(point, 4.0, f"ink {kind}")
    if not drawn:
        said = nothing_selected(sides.a.found.contrast)
        yield text(((LEFT + axis.end) / 2, scale(0.5) - 8), said, "note", "middle")


def _overlap(axis: LayerAxis, top: float, sides: Sides) -> Iterator[Markup]:
    nan = float("nan")
    scale = Scale(0, 1, top + 2 * _HEAD + _SAME, top + 2 * _HEAD)
    yield text((0, top + 13), "How far both list the same features", "title")
    yield text((0, top + 29), "mean Jaccard, bar: 95 % · layers with the same SAEs", "note")
    for value in (0, 0.5, 1):
        yield line((LEFT, scale(value)), (axis.end, scale(value)), "grid")
        yield text((LEFT - 8, scale(value) + 4), f"{value:g}", "tick", "end")
    for index, layer in enumerate(sides.layers):
        jaccard = sides.same.get(layer)
        if jaccard is not None:
            left = axis.x(index) - axis.bar / 2
            yield rectangle(left, scale(jaccard), axis.bar, scale(0) - scale(jaccard), "ink pale")
            yield from bar(axis.x(index), scale, sides.same_interval.get(layer) or [nan, nan])


def _pointed_at(axis: LayerAxis, bottom: float, sides: Sides) -> Iterator[Markup]:
    """What a pointer over a layer is told."""
    for index, layer in enumerate(sides.layers):
        told = f"Layer {layer}: {'; '.join(_of_layer(side, layer) for side in sides.both)}"
        if sides.same.get(layer) is not None:
            told += f"; Jaccard {sides.same[layer]:.2f}"
        left = LEFT + axis.step * index
        yield rectangle(left, 18, axis.step, bottom - 18, "column", element("title", told))


def _of_layer(side: Side, layer: int) -> str:
    own = side.index(layer)
    if own is None:
        return f"{side.letter} has none"
    held_out = side.found.contrast.held_out
    told = f"{side.letter} {len(side.confirmed_in(layer))} confirmed"
    if held_out.auroc[own] == held_out.auroc[own]:
        bounds = auroc_interval(held_out, own)
        told += f", AUROC {held_out.auroc[own]:.2f}{f' ({bounds})' if bounds else ''}"
    return told
