"""Where the margin lies by depth, and what separates beside what matters."""

from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from layerscope.analysis.causes.result import Causes, Depth
from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.result import Analysis
from layerscope.report.charts.depth_axis import LEFT, DepthAxis, bar
from layerscope.report.charts.svg import (
    Point,
    Scale,
    band,
    curve,
    dot,
    drawing,
    element,
    line,
    polygon,
    rectangle,
    text,
    ticks,
)
from layerscope.report.words.causes_said import said_of_layer_of_causes
from layerscope.report.words.sentences import number

_SQUARE, _DIAMOND, _UP, _DOWN = (
    ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    ((0, -5), (5, 4), (-5, 4)),
    ((0, 5), (5, -4), (-5, -4)),
)
_GLYPHS: dict[str, tuple[tuple[Point, ...], str]] = {
    "features": ((), "solid"),
    "bias": (_SQUARE, "hollow"),
    "error": (_DIAMOND, "hollow"),
    "total": (_UP, "solid"),
    "skip": (_DOWN, "hollow"),
}
"""How the points of each term are drawn: told by glyph and dashes, without colour too."""
TERM_NAMES = {
    "features": "features",
    "bias": "decoder’s bias",
    "error": "SAE’s error",
    "total": "all together",
    "skip": "passed on beside the features",
}
_HEAD, _GAP, _TERMS, _MASS = 50, 26, 180, 70
_DOTS = 600
_FACES, _TOP = 300, 26
_FACE_COLUMNS = "layer,feature_id,auroc,attribution,low_95,high_95,chosen_by_the_other_half"


def causes_chart(analysis: Analysis, available: int) -> Markup:
    """Layer by layer the signed terms over the solutions' tokens, then the size of what features have."""
    assert analysis.causes is not None, "asked of a run with attributions"
    depth, found = DepthAxis(analysis, analysis.right_wrong, available), analysis.causes.depth
    content, top = [*depth.labels(11)], 26.0
    content += _terms(depth, top, found)
    top += _HEAD + _TERMS + _GAP
    content += _mass(depth, top, found)
    top += _HEAD + _MASS + _GAP
    said = [said_of_layer_of_causes(analysis, index) for index in range(len(depth.layers))]
    content += [*depth.labels(top), *depth.columns(18, top - 14, said)]
    return depth.drawing(top + 8, content, "Attribution by depth; the numbers are in the table below")


def legend(terms: Sequence[str]) -> list[tuple[Markup, str]]:
    """The lines of the chart by their glyphs and dashes."""
    return [(_swatch(key), TERM_NAMES[key]) for key in terms]


def _swatch(key: str) -> Markup:
    marks = curve([(0, 7), (30, 7)], f"course of-{key}"), _glyph((15, 7), key)
    return element("svg", *marks, class_="chart swatch-line", width=30, height=14, aria_hidden="true")


def _terms(depth: DepthAxis, top: float, found: Depth) -> Iterator[Markup]:
    terms = found.terms[:, :3].sum(axis=1)
    low, high = _reach(terms, found.terms_interval)
    scale = Scale(low, high, top + _HEAD + _TERMS, top + _HEAD)
    yield text((0, top + 13), "Nats for the right solution, mean of a question", "title")
    yield text((0, top + 29), "band: its 95 % interval", "note")
    yield from _grid(depth, scale, ticks(low, high, 5))
    yield line((LEFT, scale(0)), (depth.end, scale(0)), "zero")
    every = max(1, int(np.ceil(26 / depth.step)))
    for order, key in enumerate(found.term_names):
        columns = terms[:, order], *found.terms_interval[:, order].T
        places, low_ends, high_ends = (
            [(depth.x(index), scale(float(value))) for index, value in enumerate(column)] for column in columns
        )
        yield band(low_ends, high_ends, f"band of-{key}")
        yield curve(places, f"course of-{key}")
        if len(places) == 1:
            places = [(places[0][0] + 9 * (order - (len(found.term_names) - 1) / 2), places[0][1])]
            yield from bar(places[0][0], scale, found.terms_interval[0, order])
        yield from (_glyph(at, key) for index, at in enumerate(places) if index % every == order % every or every == 1)


def _reach(*values: Floats) -> tuple[float, float]:
    """From the lowest to the highest that is known, with nothing among them."""
    known = [float(value) for each in values for value in each.ravel() if value == value]
    low, high = min([0.0, *known]), max([0.0, *known])
    return (low, high) if high > low else (-1.0, 1.0)


def _mass(depth: DepthAxis, top: float, found: Depth) -> Iterator[Markup]:
    mass = found.mass[:, :3].sum(axis=1)
    highest = _reach(mass, found.mass_interval)[1]
    scale = Scale(0, highest, top + _HEAD + _MASS, top + _HEAD)
    yield text((0, top + 13), "Size of the listed attributions, without signs", "title")
    yield text((0, top + 29), "nats of a question, mean, bar: 95 %", "note")
    yield from _grid(depth, scale, ticks(0, highest, 3))
    for index, value in enumerate(mass.tolist()):
        yield rectangle(
            depth.x(index) - depth.bar / 2, scale(value), depth.bar, scale(0) - scale(value), "ink solid pale"
        )
        yield from bar(depth.x(index), scale, found.mass_interval[index])
    yield line((LEFT, scale(0)), (depth.end, scale(0)), "zero")


def _grid(depth: DepthAxis, scale: Scale, values: Sequence[float]) -> Iterator[Markup]:
    for value in values:
        yield line((LEFT, scale(value)), (depth.end, scale(value)), "grid")
        yield text((LEFT - 8, scale(value) + 4), f"{value:g}".replace("-", "−"), "tick", "end")


def _glyph(at: Point, key: str) -> Markup:
    corners, inside = _GLYPHS[key]
    kind = f"glyph {inside} of-{key}"
    return polygon([(at[0] + x, at[1] + y) for x, y in corners], kind) if corners else dot(at, 4, kind)


def faces_chart(causes: Causes, width: int, kind: str) -> Markup:
    """Every feature by how well it separates and how much it matters, on the half that chose nothing."""
    faces = causes.faces
    assert faces is not None, "asked of a run in which something is tested"
    reach = max(float(np.abs(faces.auroc - 0.5).max(initial=0)), 0.05)
    known = _known(causes)
    size = max([1e-6, *(abs(float(end)) for interval in known.values() for end in interval)])
    size = max(float(np.abs(faces.mean).max(initial=0)), size)
    x, root = Scale(0.5 - reach, 0.5 + reach, LEFT, width - 14), size**0.5
    y = Scale(-root, root, _TOP + _FACES, _TOP)
    marks = [line((LEFT, y(0)), (width - 14, y(0)), "zero"), line((x(0.5), _TOP), (x(0.5), _TOP + _FACES), "limit")]
    for value in _values(size):
        at = y(_root(value))
        marks += [line((LEFT, at), (width - 14, at), "grid")] if value else []
        marks.append(text((LEFT - 8, at + 4), f"{value:g}".replace("-", "−"), "tick", "end"))
    for value in ticks(0.5 - reach, 0.5 + reach, 5 if width > 400 else 3):
        marks.append(text((x(value), _TOP + _FACES + 18), f"{value:g}", "tick", "middle"))
    for row in _drawn(causes):
        mean = float(faces.mean[row])
        said = (
            f"feature {faces.feature_id[row]} of layer {faces.layer[row]}: AUROC {faces.auroc[row]:.2f}, attribution "
            f"{number(mean, 3)}"
        )
        interval = known.get((int(faces.layer[row]), int(faces.feature_id[row])))
        said += f" (95 %: {number(interval[0], 3)} to {number(interval[1], 3)})" if interval else ""
        ends = "{:.6g},{:.6g}".format(*interval) if interval else ","
        place = (x(float(faces.auroc[row])), y(_root(mean)))
        marks += bar(place[0], y, [_root(end) for end in interval]) if interval else []
        numbers = f"{faces.layer[row]},{faces.feature_id[row]},{faces.auroc[row]:.4f},{mean:.6g},{ends}"
        size_and_kind = (4.5, "ink solid") if interval else (2.6, "ink hollow")
        marks.append(dot(place, *size_and_kind, element("title", said), row=f"{numbers},{interval is not None:d}"))
    marks += [
        text((0, 12), "attribution, nats a question (square-root scale)", "note"),
        text(((LEFT + width - 14) / 2, _TOP + _FACES + 38), "AUROC of right against wrong", "note", "middle"),
    ]
    label = "What separates beside what matters; the numbers of the largest are in the table below"
    return drawing(width, _TOP + _FACES + 48, *marks, kind=f"chart {kind}", label=label, columns=_FACE_COLUMNS)


def _root(value: float) -> float:
    return float(np.sign(value) * abs(value) ** 0.5)


def _values(size: float) -> list[float]:
    """Round numbers on a square-root scale: the largest, a quarter of it, nothing, and both below."""
    step = ticks(0, size, 2)[-1] or size
    return [-step, -step / 4, 0.0, step / 4, step]


def _known(causes: Causes) -> dict[tuple[int, int], tuple[float, float]]:
    """The features that one half chose, by layer and id, with the interval of what they have of the margin."""
    chosen = causes.chosen
    assert chosen is not None, "asked of a run in which something is tested"
    keys = zip(chosen.layer.tolist(), chosen.feature_id.tolist(), strict=True)
    return dict(zip(keys, zip(chosen.low.tolist(), chosen.high.tolist(), strict=True), strict=True))


def _drawn(causes: Causes) -> list[int]:
    """Which features are drawn: those that one half chose last, and of the others some, evenly."""
    faces, keys = causes.faces, _known(causes)
    assert faces is not None, "asked of a run in which something is tested"
    pairs = zip(faces.layer.tolist(), faces.feature_id.tolist(), strict=True)
    known = np.array([key in keys for key in pairs], dtype=bool)
    others = np.flatnonzero(~known)
    some = others[np.unique(np.linspace(0, len(others) - 1, min(len(others), _DOTS)).astype(np.int64))]
    return [*map(int, some), *map(int, np.flatnonzero(known))]
