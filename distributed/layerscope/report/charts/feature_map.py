"""The map of each layer's surest features: placed by the discovery half, coloured by the validation half."""

import math

import numpy as np
from markupsafe import Markup

from layerscope.analysis.result import Analysis, Contrast
from layerscope.report.charts.depth_axis import LEFT, NARROW, WIDE, DepthAxis, strongest_first
from layerscope.report.charts.svg import dot, element, line, rectangle, text
from layerscope.report.words.sentences import odds

CELLS = {WIDE: 12, NARROW: 8}
"""Features per layer and direction, by the width of the drawing."""
_COLUMNS = "layer,feature_id,log_odds_discovery,log_odds_validation,confirmed"
_SIDE = 15.0  # height of a cell
_EFFECT_STEPS = (0.25, 0.5, 1.0, 1.75)  # |log-odds| from which a cell is darker


def feature_map(analysis: Analysis, contrast: Contrast, available: int) -> Markup:
    """Each layer's strongest features: placed by the discovery half, coloured by the validation half."""
    depth = DepthAxis(analysis, contrast, available)
    ranks = CELLS[available]
    middle = 46 + ranks * _SIDE
    content = [
        *depth.labels(11),
        text((LEFT, 34), f"▲ fires for the {contrast.first} solution on the discovery half", "note first"),
        text((LEFT, middle + ranks * _SIDE + 18), f"▼ fires for the {contrast.second} one", "note second"),
    ]
    for rank in (1, ranks):
        said = f"{rank}th" if rank > 1 else "surest"
        heights = (middle - (rank - 0.5) * _SIDE, middle + (rank - 0.5) * _SIDE)
        content += [text((LEFT - 8, y + 4), said, "tick", "end") for y in heights]
    discovery = contrast.firing.discovery
    for index, rows in enumerate(depth.rows):
        for direction in (1, -1):
            z = direction * discovery.z[rows]
            candidates = rows[~np.isnan(discovery.p[rows]) & (z > 0)]
            for rank, row in enumerate(strongest_first(contrast.firing, candidates)[:ranks]):
                y = middle + (-(rank + 1) if direction > 0 else rank) * _SIDE
                content.append(_cell(depth, int(row), depth.x(index) - depth.bar / 2, y))
    content.append(line((LEFT, middle), (depth.end, middle), "zero"))
    label = f"{contrast.name}: the strongest features of every layer; the tables below hold their numbers"
    return depth.drawing(middle + ranks * _SIDE + 26, content, label, _COLUMNS)


def effect_legend() -> list[tuple[str, str]]:
    """The colours from the second side to the first, and the odds at which each begins."""
    darker = list(enumerate(_EFFECT_STEPS, start=1))
    return [
        *((f"second-{step}", f"≤ {odds(-edge)}") for step, edge in reversed(darker)),
        ("first-0", "about 1:1"),
        *((f"first-{step}", f"≥ {odds(edge)}") for step, edge in darker),
        ("untested", "no such pair"),
    ]


def effect_class(log_odds: float) -> str:
    """The colour of an effect, such as `first-3`; `untested` of one that no pair tells."""
    if math.isnan(log_odds):
        return "untested"
    step = sum(abs(log_odds) >= edge for edge in _EFFECT_STEPS)
    return f"{'first' if log_odds >= 0 or not step else 'second'}-{step}"


def _cell(depth: DepthAxis, row: int, x: float, y: float) -> Markup:
    features, firing = depth.analysis.features, depth.contrast.firing
    layer, feature_id = int(features.layer[row]), int(features.feature_id[row])
    confirmed, held_out = bool(firing.confirmed[row]), float(firing.validation.effect[row])
    said = (
        f"layer {layer}, feature {feature_id}: {odds(float(firing.discovery.effect[row]))} on the discovery half, "
        f"{odds(held_out)} on the validation half{', confirmed' if confirmed else ''}"
    )
    marks = [element("title", said), rectangle(x, y + 0.5, depth.bar, _SIDE - 1, f"cell {effect_class(held_out)}")]
    if confirmed:
        marks.append(dot((x + depth.bar / 2, y + _SIDE / 2), 2.4, "confirmed"))
    href = f"#contrast={depth.contrast.first}&layer={layer}&feature={feature_id}"
    numbers = f"{layer},{feature_id},{float(firing.discovery.effect[row]):.4g},{held_out:.4g},{confirmed:d}"
    return element("a", *marks, href=href, tabindex=-1, data_row=numbers.replace("nan", ""))
