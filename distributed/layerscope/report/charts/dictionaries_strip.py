"""The chart of a run's dictionaries by depth: a lane for each, on one axis and one scale."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.dictionaries import Dictionary
from layerscope.report.charts.depth_axis import LEFT, LayerAxis, auroc_scale, bar, whisker
from layerscope.report.charts.svg import Scale, curve, dot, element, line, rectangle, text, ticks
from layerscope.report.words.untested import confirmed_in, is_untested, nothing_selected

_HEAD, _AUROC, _NOTE, _OVERLAP, _GAP = 40, 84, 22, 34, 16
"""Heights: of a lane its title, its panel, the second one's note, the second one; what follows the lane."""


def dictionaries_strip(layers: Sequence[int], dictionaries: Sequence[Dictionary], available: int) -> Markup:
    """How well each one's selected features tell right from wrong, held out; below, the overlap with the first."""
    axis, top = LayerAxis(layers, available), 26.0
    ends = auroc_scale([each.found.held_out for each in dictionaries])
    content = [*axis.labels(11)]
    for each in dictionaries:
        content += _auroc(axis, top, ends, each, dictionaries[0])
        height = _HEAD + _AUROC
        if each.overlap is not None:
            content += _overlap(axis, top + height, each, dictionaries[0].name)
            height += _NOTE + _OVERLAP
        content += _pointed_at(axis, top, height, each)
        top += height + _GAP
    content += [*axis.labels(top + 2)]
    label = "What each dictionary finds, layer by layer; the numbers are in the table below"
    return axis.drawing(top + 8, content, label)


def _auroc(
    axis: LayerAxis, top: float, ends: tuple[float, float], each: Dictionary, first: Dictionary
) -> Iterator[Markup]:
    auroc = each.found.held_out.auroc
    scale = Scale(*ends, top + _HEAD + _AUROC, top + _HEAD)
    confirmed = int(each.found.firing_by_layer.confirmed.sum())
    found = "not known, too few pairs" if is_untested(each.found) else f"{confirmed:,} confirmed"
    beside = "" if each is first else f" · dotted: {first.name}"
    yield text((0, top + 13), f"{each.name}: {found}", "title")
    yield text((0, top + 29), f"AUROC, held out · bar: its 95 % interval{beside}", "note")
    for value in ticks(*ends, 4):
        yield line((LEFT, scale(value)), (axis.end, scale(value)), "grid")
        yield text((LEFT - 8, scale(value) + 4), f"{value:g}", "tick", "end")
    yield line((LEFT, scale(0.5)), (axis.end, scale(0.5)), "limit")
    if each is not first:
        of_first = first.found.held_out.auroc
        yield curve(_points(axis, scale, of_first), "thread of-last-word")
    points = _points(axis, scale, auroc)
    for index, (x, _) in enumerate(points):
        yield from whisker(x, scale, each.found.held_out, index)
    yield curve(points, "thread first")
    yield from (dot(point, 3.8, "first solid") for point in points if point[1] == point[1])
    if not any(value == value for value in auroc):
        yield text(((LEFT + axis.end) / 2, scale(0.5) - 6), nothing_selected(each.found), "note", "middle")


def _overlap(axis: LayerAxis, top: float, each: Dictionary, first: str) -> Iterator[Markup]:
    assert each.overlap is not None
    scale = Scale(0, 1, top + _NOTE + _OVERLAP, top + _NOTE)
    yield text((LEFT, top + 15), f"overlap with {first}, bar: 95 % · line: by chance", "note")
    for value in (0, 1):
        yield text((LEFT - 8, scale(value) + 4), f"{value}", "tick", "end")
    yield line((LEFT, scale(0)), (axis.end, scale(0)), "zero")
    for index, (value, chance) in enumerate(zip(each.overlap.jaccard, each.overlap.by_chance, strict=True)):
        if value == value:
            left, height = axis.x(index) - axis.bar / 2, scale(0) - scale(float(value))
            yield rectangle(left, scale(float(value)), axis.bar, height, "ink pale")
            yield from bar(axis.x(index), scale, each.overlap.interval[index])
            yield line((left, scale(float(chance))), (left + axis.bar, scale(float(chance))), "zero")


def _pointed_at(axis: LayerAxis, top: float, height: float, each: Dictionary) -> Iterator[Markup]:
    """What a pointer over a layer is told."""
    for index, layer in enumerate(axis.layers):
        told = f"{each.name}, layer {layer}: {confirmed_in(each.found.firing_by_layer, index)} confirmed"
        auroc = each.found.held_out.auroc[index]
        told += f", held-out AUROC {auroc:.2f}" if auroc == auroc else ""
        if each.overlap is not None and each.overlap.jaccard[index] == each.overlap.jaccard[index]:
            told += f", overlap {each.overlap.jaccard[index]:.2f} ({each.overlap.by_chance[index]:.2f} by chance)"
        yield rectangle(LEFT + axis.step * index, top, axis.step, height, "column", element("title", told))


def _points(axis: LayerAxis, scale: Scale, values: Floats) -> list[tuple[float, float]]:
    return [(axis.x(index), scale(float(value))) for index, value in enumerate(values)]
