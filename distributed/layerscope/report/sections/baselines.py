"""The section that sets features beside baselines: its chart by depth, and its tables."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from layerscope.analysis.baselines.result import NAMES, Baseline, Comparison
from layerscope.analysis.columns.arrays import Floats
from layerscope.analysis.result import Analysis
from layerscope.report.charts.depth_axis import LEFT, NARROW, WIDE, DepthAxis
from layerscope.report.charts.svg import Point, Scale, band, curve, dot, element, line, polygon, text, ticks
from layerscope.report.words import baselines_said as say
from layerscope.report.words.sentences import number, percent

_HEAD, _GAP = 34, 26  # above a panel, for its title; below it
_SQUARE, _DIAMOND = ((-4, -4), (4, -4), (4, 4), (-4, 4)), ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0))
_UP, _DOWN, _DOT = ((0, -5), (5, 4), (-5, 4)), ((0, 5), (5, -4), (-5, -4)), ()
_HALF_LEFT, _HALF_RIGHT = ((-5, 0), (4, -5), (4, 5)), ((5, 0), (-4, -5), (-4, 5))
_GLYPHS: dict[str, tuple[tuple[Point, ...], str]] = {
    "likelihood": (_SQUARE, "solid"),
    "length": (_SQUARE, "hollow"),
    "words": (_UP, "solid"),
    "last": (_UP, "hollow"),
    "means": (_DIAMOND, "hollow"),
    "dense": (_DIAMOND, "solid"),
    "random": (_HALF_LEFT, "hollow"),
    "random-20": (_HALF_RIGHT, "hollow"),
    "selected": (_DOT, "hollow"),
    "sparse-1": (_DOWN, "hollow"),
    "sparse-5": (_DOWN, "solid"),
    "sparse-20": (_DOT, "solid"),
}
"""How the points of each are drawn: every line is told by its glyph and its dashes, without its colour too."""
_OF_DICTIONARIES = ("selected", "sparse-1", "sparse-5", "sparse-20", "random", "random-20")


class Line(NamedTuple):
    """One line of a panel, with its band, [L] each."""

    key: str
    values: Floats
    low: Floats
    high: Floats


def section(analysis: Analysis) -> dict[str, Any] | None:
    """All that the template shows of the comparison; None where nothing is compared."""
    comparison = analysis.comparison
    if comparison.why or say.is_control(analysis):
        return None
    shown = [baseline for baseline in comparison.baselines if say.known(baseline)]
    return {
        "charts": [baselines_chart(analysis, width) for width in (WIDE, NARROW)],
        "legend": [(_swatch(each.key), say.name_of(each.key, comparison)) for each in shown],
        "rows": [_row(key, analysis) for key in NAMES if comparison.of(key) or key in dict(comparison.missing)],
        "layers": _layer_table(analysis, shown),
        "hidden": say.hidden_title(analysis),
        "probe": NAMES[comparison.hidden.probe] if comparison.hidden else "",
    }


def baselines_chart(analysis: Analysis, available: int) -> Markup:
    """Layer by layer what features and what baselines reach, on one scale; then pairs ranked right."""
    depth, comparison = DepthAxis(analysis, analysis.right_wrong, available), analysis.comparison
    known = [each for each in comparison.baselines if say.known(each)]
    features = [_line(each, depth) for each in known if each.key in _OF_DICTIONARIES]
    others = [_line(each, depth) for each in known if each.key not in _OF_DICTIONARIES or each.key == comparison.best]
    scale = _reach([*features, *others])
    content, top = [*depth.labels(11)], 26.0
    for title, height, lines in (
        (f"AUROC of features{', learnt and random' if comparison.of('random') else ''}", 150, features),
        ("AUROC of baselines, beside the best of features", 170, others),
    ):
        content += _panel(depth, top, title, height, scale, lines)
        top += _HEAD + height + _GAP
    ranked = _ranked(depth)
    content += _panel(depth, top, "Pairs ranked right, beside the log-likelihood", 110, _reach(ranked), ranked)
    top += _HEAD + 110 + _GAP
    said = [say.said_of_layer_beside(analysis, index) for index in range(len(depth.layers))]
    content += [*depth.labels(top), *depth.columns(18, top - 14, said)]
    return depth.drawing(
        top + 8, content, "Features beside baselines, layer by layer; the numbers are in the tables below"
    )


def _line(baseline: Baseline, depth: DepthAxis) -> Line:
    measured = baseline.measured
    return _over(depth, baseline.key, measured.auroc, measured.auroc_low, measured.auroc_high)


def _over(depth: DepthAxis, key: str, *columns: Floats) -> Line:
    """What knows of no layers is the same in all."""
    return Line(key, *(np.broadcast_to(column, len(depth.layers)) for column in columns))


def _ranked(depth: DepthAxis) -> list[Line]:
    comparison = depth.analysis.comparison
    keys = ["likelihood", *([comparison.hidden.probe] if comparison.hidden else [])]
    found = [each for each in map(comparison.of, keys) if each is not None]
    return [
        _over(depth, each.key, each.measured.ranked, each.measured.ranked_low, each.measured.ranked_high)
        for each in found
    ]


def _reach(lines: Sequence[Line]) -> tuple[float, float]:
    """The lowest and the highest that is drawn, chance included."""
    values = np.concatenate([[0.45, 0.6], *(column for each in lines for column in each[1:])])
    return float(np.nanmin(values)), float(np.nanmax(values))


def _panel(
    depth: DepthAxis, top: float, title: str, height: float, reach: tuple[float, float], lines: Sequence[Line]
) -> Iterator[Markup]:
    scale = Scale(*reach, top + _HEAD + height, top + _HEAD)
    yield text((0, top + 13), title, "title")
    for value in ticks(*reach, 5):
        yield line((LEFT, scale(value)), (depth.end, scale(value)), "grid")
        yield text((LEFT - 8, scale(value) + 4), f"{value:g}", "tick", "end")
    yield line((LEFT, scale(0.5)), (depth.end, scale(0.5)), "limit")
    every = max(1, int(np.ceil(26 / depth.step)))
    for order, each in enumerate(lines):
        places = [[(depth.x(index), scale(float(value))) for index, value in enumerate(column)] for column in each[1:]]
        yield band(places[1], places[2], f"band of-{each.key}")
        yield curve(places[0], f"course of-{each.key}")
        for index, (x, y) in enumerate(places[0]):
            alone = len(depth.layers) == 1
            if y == y and (alone or index % every == order % every):
                if alone:
                    x = x + 9 * (order - (len(lines) - 1) / 2)
                    yield line((x, places[1][index][1]), (x, places[2][index][1]), "whisker")
                yield _glyph((x, y), each.key)


def _glyph(at: Point, key: str) -> Markup:
    corners, inside = _GLYPHS[key]
    kind = f"glyph {inside} of-{key}"
    return polygon([(at[0] + x, at[1] + y) for x, y in corners], kind) if corners else dot(at, 4, kind)


def _swatch(key: str) -> Markup:
    marks = curve([(0, 7), (30, 7)], f"course of-{key}"), _glyph((15, 7), key)
    return element("svg", *marks, class_="chart swatch-line", width=30, height=14, aria_hidden="true")


def _row(key: str, analysis: Analysis) -> dict[str, Any]:
    """One baseline in the table: what stands for it, or what it would need."""
    comparison: Comparison = analysis.comparison
    row: dict[str, Any] = {"name": say.name_of(key, comparison), "best": key == comparison.best, "needs": ""}
    baseline = comparison.of(key)
    if baseline is None:
        return row | {"needs": dict(comparison.missing)[key]}
    if not say.known(baseline):
        return row | {"needs": "no feature is selected"}
    measured, at, ahead = baseline.measured, baseline.chosen, baseline.ahead
    ranked = [percent(float(column[at])) for column in (measured.ranked, measured.ranked_low, measured.ranked_high)]
    return row | {
        "layer": str(analysis.layers.layer[at]) if baseline.by_depth else "–",
        "auroc": number(float(measured.auroc[at])),
        "bounds": say.bounds(baseline),
        "ranked": ranked[0],
        "ranked_bounds": f"{ranked[1].removesuffix(' %')} to {ranked[2]}",
        "ahead": "–" if ahead is None else number(ahead.difference),
        "ahead_bounds": "–" if ahead is None else f"{number(ahead.low)} to {number(ahead.high)}",
    }


def _layer_table(analysis: Analysis, shown: Sequence[Baseline]) -> dict[str, Any]:
    """Every layer's numbers: of the lines that go by depth, and of the pairs that one of two ranks right."""
    comparison, hidden = analysis.comparison, analysis.comparison.hidden
    by_depth = [each for each in shown if each.by_depth]
    probe = comparison.of(hidden.probe) if hidden else None
    rows = []
    for index, layer in enumerate(analysis.layers.layer):
        cells = [number(float(each.measured.auroc[index])) for each in by_depth]
        if hidden and probe:
            cells += [percent(float(probe.measured.ranked[index])), str(hidden.probe_only[index])]
            cells += [str(hidden.likelihood_only[index]), say.p_value(float(hidden.p[index]))]
        rows.append((int(layer), cells))
    of_pairs = ("ranked right", "the probe’s alone", "the likelihood’s alone", "p") if hidden else ()
    return {"columns": [*(say.name_of(each.key, comparison) for each in by_depth), *of_pairs], "rows": rows}
