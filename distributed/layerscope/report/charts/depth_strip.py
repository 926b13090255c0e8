"""The strip of charts over depth: layer by layer, what fires, how much, how surely, and what that tells."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from layerscope.analysis.result import Analysis, Contrast, Tested
from layerscope.report.charts.depth_axis import LEFT, DepthAxis, auroc_scale, bar, strongest_first, whisker
from layerscope.report.charts.svg import Scale, area, curve, dot, element, line, rectangle, text, ticks
from layerscope.report.words.sentences import odds
from layerscope.report.words.untested import nothing_selected

_HEAD, _GAP = 50, 24  # above a panel, for its title and note; below it
_DOTS = 40  # features drawn per layer: those with the largest |z| of the discovery half


@dataclass(frozen=True)
class _Panel:
    """One chart of the strip: what it is called, how high it is, its axis."""

    title: str
    note: Sequence[Markup | str]
    height: float
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def scale(self, top: float) -> Scale:
        return Scale(self.low, self.high, top + _HEAD + self.height, top + _HEAD)

    def frame(self, depth: DepthAxis, top: float) -> Iterator[Markup]:
        scale = self.scale(top)
        yield text((0, top + 13), self.title, "title")
        yield text((0, top + 29), Markup("").join(self.note), "note")
        for value, label in self.ticks:
            yield line((LEFT, scale(value)), (depth.end, scale(value)), "grid")
            yield text((LEFT - 8, scale(value) + 4), label, "tick", "end")


def depth_strip(analysis: Analysis, contrast: Contrast, available: int) -> Markup:
    """Layer by layer: how many features differ, how much, how surely, how well they tell; then how many fire."""
    depth = DepthAxis(analysis, contrast, available)
    parts = (_firing_counts, _effects, _strongest, _held_out, _magnitude_counts, _active, _overlap)
    content = [*depth.labels(11)]
    top = 26.0
    for part in parts:
        panel, marks = part(depth, top)
        content += [*panel.frame(depth, top), *marks]
        top += _HEAD + panel.height + _GAP
    content += [*depth.labels(top), *depth.columns(18, top - 14)]
    label = f"{contrast.name}, layer by layer: seven charts on one axis; their numbers are in the table below"
    return depth.drawing(top + 8, content, label)


_Drawn = tuple[_Panel, list[Markup]]


def _firing_counts(depth: DepthAxis, top: float) -> _Drawn:
    return _counts(depth, top, depth.contrast.firing, "Features that fire for one side more often", 112)


def _magnitude_counts(depth: DepthAxis, top: float) -> _Drawn:
    return _counts(depth, top, depth.contrast.magnitude, "Features that fire on both, stronger on one", 70)


def _counts(depth: DepthAxis, top: float, tested: Tested[Any], title: str, height: float) -> _Drawn:
    """Bars up for the first side and down for the second: pale significant over all pairs, solid confirmed."""
    up = tested.everything.z > 0
    significant = tested.everything.q <= depth.analysis.options.level
    pale = [depth.count(significant & (up == side)) for side in (True, False)]
    solid = [depth.count(tested.confirmed & (up == side)) for side in (True, False)]
    above, below = (max(int(pale[side].max()), int(solid[side].max())) for side in (0, 1))
    largest = max(above, below, 1)
    low, high = -max(below, 0.15 * largest), max(above, 0.15 * largest)  # a side without any keeps a little room
    marked = [value for value in ticks(low, high, 5) if value == int(value)]
    names = (("first", depth.contrast.first, "▲"), ("second", depth.contrast.second, "▼"))
    note = [
        *(element("tspan", f"{arrow} {name}  ", class_=side) for side, name, arrow in names),
        "solid: confirmed · pale: significant",
    ]
    panel = _Panel(title, note, height, low, high, [(value, str(int(abs(value)))) for value in marked])
    scale = panel.scale(top)
    marks = []
    for index in range(len(depth.layers)):
        for number, (side, *_) in enumerate(names):
            for counts, kind, width in ((pale, "pale", depth.bar), (solid, "solid", depth.bar * 0.62)):
                length = abs(scale(int(counts[number][index])) - scale(0))
                if length:
                    y = scale(0) - length if number == 0 else scale(0)
                    marks.append(rectangle(depth.x(index) - width / 2, y, width, length, f"{side} {kind}"))
    if not any(map(np.any, pale + solid)):
        marks.append(_nothing(depth, scale(0) - 8, "no feature"))
    for number, confirmed in enumerate(solid):
        most = int(np.argmax(confirmed))
        if confirmed[most]:
            y = scale(max(int(pale[number][most]), int(confirmed[most])) * (1, -1)[number]) + (-5, 14)[number]
            anchor = _anchor(depth, most)
            x = depth.x(most) + depth.bar / 2 * {"start": -1, "end": 1}.get(anchor, 0)
            marks.append(text((x, y), f"{confirmed[most]:,} confirmed", "value", anchor))
    return panel, [*marks, line((LEFT, scale(0)), (depth.end, scale(0)), "zero")]


def _effects(depth: DepthAxis, top: float) -> _Drawn:
    """A dot for every selected feature, as large as it is on the half that did not select it."""
    firing = depth.contrast.firing
    shown = [strongest_first(firing, rows[firing.selected[rows]])[:_DOTS] for rows in depth.rows]
    effects = firing.validation.effect
    shown = [rows[~np.isnan(effects[rows])] for rows in shown]  # of the others no pair on that half tells
    drawn = effects[np.concatenate(shown)]
    low, high = min(-0.8, *drawn, 0) * 1.08, max(0.8, *drawn, 0) * 1.08
    base = math.log(2 if high - low < 4.4 else 4 if high - low < 9 else 10)
    steps = range(math.ceil(low / base), math.floor(high / base) + 1)
    marked = [(step * base, odds(step * base).replace(".0", "")) for step in steps]
    first, second = depth.contrast.first, depth.contrast.second
    note = [f"odds {first} : {second}, validation half · ○ unconfirmed"]
    panel = _Panel("Effect of each selected feature", note, 120, low, high, marked)
    scale = panel.scale(top)
    marks = [line((LEFT, scale(0)), (depth.end, scale(0)), "zero")]
    for index, rows in enumerate(shown):
        for row in rows:
            side = "first" if effects[row] >= 0 else "second"
            kind = f"{side} {'solid' if firing.confirmed[row] else 'hollow'}"
            marks.append(dot((depth.x(index), scale(float(effects[row]))), min(3.6, depth.step * 0.26), kind))
    if not any(map(len, shown)):
        marks.append(_nothing(depth, scale(0) - 8, nothing_selected(depth.contrast)))
    return panel, marks


def _strongest(depth: DepthAxis, top: float) -> _Drawn:
    """The largest |z| of each layer against what flipped labels reach, which needs no halves."""
    z, threshold = depth.contrast.firing_by_layer.largest_z, depth.contrast.firing.family_wise_z
    reached = [value for value in (*z, threshold) if math.isfinite(value)]
    high = max([4.0, *reached]) * 1.1
    panel = _Panel(
        "Surest feature of each layer, against chance",
        ["largest |z|, all pairs · dashed: chance (flipped labels)"],
        76,
        0,
        high,
        [(value, f"{value:g}") for value in ticks(0, high, 3)],
    )
    scale = panel.scale(top)
    marks = []
    for index, value in enumerate(z):
        if math.isfinite(value):
            kind = "ink solid" if value > threshold else "ink hollow"
            marks.append(line((depth.x(index), scale(0)), (depth.x(index), scale(float(value))), "stem"))
            marks.append(dot((depth.x(index), scale(float(value))), min(4.0, depth.step * 0.3), kind))
    if math.isfinite(threshold):
        y = scale(threshold)
        marks.append(line((LEFT, y), (depth.end, y), "limit"))
    return panel, marks


def _held_out(depth: DepthAxis, top: float) -> _Drawn:
    held_out = depth.contrast.held_out
    low, high = auroc_scale([held_out])
    panel = _Panel(
        "How well they tell the two apart, held out",
        ["● AUROC, validation half · bar: its 95 % interval"],
        124,
        low,
        high,
        [(value, f"{value:g}") for value in ticks(low, high, 5) if value > 0.5],
    )
    scale = panel.scale(top)
    chance = scale(0.5)
    points = [(depth.x(index), scale(float(value))) for index, value in enumerate(held_out.auroc)]
    marks = [area(points, chance, "lifted"), line((LEFT, chance), (depth.end, chance), "limit")]
    marks += [text((depth.end, chance + 14), "0.5: chance", "note", "end"), curve(points, "thread first")]
    for index, point in enumerate(points):
        if point[1] == point[1]:
            marks += whisker(point[0], scale, held_out, index)
            marks.append(dot(point, min(3.8, depth.step * 0.27), "first solid"))
    known = np.flatnonzero(~np.isnan(held_out.auroc))
    if len(known):
        best = int(known[np.argmax(held_out.auroc[known])])
        y = scale(float(np.fmax(held_out.auroc[best], held_out.auroc_high[best]))) - 6
        marks.append(text((depth.x(best), y), f"{held_out.auroc[best]:.2f}", "value", _anchor(depth, best)))
    else:
        marks.append(_nothing(depth, chance - 8, nothing_selected(depth.contrast)))
    return panel, marks


def _active(depth: DepthAxis, top: float) -> _Drawn:
    """The sides of the second contrast are not known here, so it is shown the mean of both."""
    layers, top_k = depth.analysis.layers, depth.analysis.header.top_k
    by_label = depth.contrast.first == "right"
    both = (layers.positive_active + layers.negative_active) / 2
    sides = [
        ("first", layers.positive_active, layers.positive_interval),
        ("second", layers.negative_active, layers.negative_interval),
    ]
    sides = sides if by_label else [("ink", both, layers.active_interval)]
    values = [float(value) for _, *side in sides for value in np.concatenate([np.ravel(of) for of in side])]
    most = max([1, *(value for value in values if value == value)])
    limit = top_k if top_k is not None and top_k < 2.5 * most else None  # one far above would flatten all else
    high = max(limit or 0, most) * 1.12
    note: list[Markup | str] = ["mean, bar: 95 %"]
    if by_label:
        note = [element("tspan", "● right  ", class_="first"), element("tspan", "○ wrong  ", class_="second"), *note]
    if top_k is not None:
        note.append(f" · {'' if limit is None else 'dashed: '}lists end at {top_k}")
    panel = _Panel("Active features", note, 60, 0, high, [(value, f"{value:g}") for value in ticks(0, high, 2)])
    scale = panel.scale(top)
    marks = [] if limit is None else [line((LEFT, scale(limit)), (depth.end, scale(limit)), "limit")]
    apart = min(depth.step * 0.12, 4) if by_label else 0
    for side, means, intervals in reversed(sides):
        beside = {"first": -apart, "second": apart}.get(side, 0)  # so that no side's bar lies on the other's
        points = [(depth.x(index) + beside, scale(float(value))) for index, value in enumerate(means)]
        marks.append(curve(points, f"{side} thread"))
        marks += [mark for (x, _), interval in zip(points, intervals, strict=True) for mark in bar(x, scale, interval)]
        hollow = side == "second"
        radius = min(4.4 if hollow else 2.6, depth.step * (0.34 if hollow else 0.2))
        marks += [
            dot(point, radius, f"{side} {'hollow' if hollow else 'solid'}") for point in points if point[1] == point[1]
        ]
    return panel, marks


def _overlap(depth: DepthAxis, top: float) -> _Drawn:
    jaccard = depth.analysis.layers.jaccard
    note = ["mean Jaccard, bar: 95 % · 1: all shared, 0: none"]
    panel = _Panel("Overlap of the two solutions' features", note, 60, 0, 1, [(0, "0"), (0.5, "0.5"), (1, "1")])
    scale = panel.scale(top)
    marks = [
        rectangle(
            depth.x(index) - depth.bar / 2, scale(float(value)), depth.bar, scale(0) - scale(float(value)), "ink pale"
        )
        for index, value in enumerate(jaccard)
        if value == value
    ]
    for index, interval in enumerate(depth.analysis.layers.jaccard_interval):
        marks += bar(depth.x(index), scale, interval)
    return panel, marks


def _anchor(depth: DepthAxis, index: int) -> str:
    """Of what stands over a layer: at the ends it does not go beyond the axis, however short that is."""
    if len(depth.layers) == 1:
        return "middle"
    return {0: "start", len(depth.layers) - 1: "end"}.get(index, "middle")


def _nothing(depth: DepthAxis, y: float, said: str) -> Markup:
    return text(((LEFT + depth.end) / 2, y), said, "note", "middle")
