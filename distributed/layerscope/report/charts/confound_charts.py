"""What else could explain a difference: the margins, and accuracy by difference in length."""

import numpy as np
from markupsafe import Markup

from layerscope.analysis.result import Analysis
from layerscope.analysis.testing.statistics import proportion
from layerscope.formatting import count_of
from layerscope.report.charts.svg import Scale, dot, drawing, element, line, rectangle, text, ticks
from layerscope.report.words.sentences import number, percent

_LEFT, _TOP, _HEIGHT = 50, 26, 180
_BINS = 40
_MARGINS = "nats_from,nats_to,questions,low_95,high_95"  # of the outermost bins what lies beyond them, too
_LENGTHS = "tokens_from,tokens_to,right,questions,low_95,high_95"


def margin_histogram(analysis: Analysis, width: int, kind: str) -> Markup:
    """Questions by margin, with intervals by goal group; the outermost bins hold what lies beyond them."""
    margin, group = analysis.questions.margin, analysis.questions.group
    reach = max(float(np.quantile(np.abs(margin), 0.98)) if len(margin) else 0.0, 1e-6)
    step = ticks(0, 2 * reach, _BINS)[1]
    edges = step * np.arange(-int(reach / step) - 1, int(reach / step) + 2)
    inside = np.clip(margin, edges[0], np.nextafter(edges[-1], -np.inf))
    of = np.digitize(inside, edges) - 1
    bins = [proportion(of == number, group) for number in range(len(edges) - 1)]
    ends = [(each.low * each.total, each.high * each.total) if each.total else (0.0, 0.0) for each in bins]
    x, y, frame = _frame(width, (float(edges[0]), float(edges[-1])), max([1.0, *(high for _, high in ends)]))
    beyond = int(((margin < edges[0]) | (margin >= edges[-1])).sum())
    marks = []
    for low, high, count, end in zip(edges, edges[1:], [each.count for each in bins], ends, strict=False):
        side = "first" if low >= 0 else "second"
        said = f"{number(float(low), 1)} to {number(float(high), 1)} nats: {count_of(count, 'question')}"
        bar = rectangle(
            x(float(low)) + 0.5,
            y(count),
            x(float(high)) - x(float(low)) - 1,
            y(0) - y(count),
            f"{side} solid",
        )
        row, middle = f"{low:g},{high:g},{count},{end[0]:.1f},{end[1]:.1f}", x(float(low + high) / 2)
        whisker = [line((middle, y(end[0])), (middle, y(end[1])), "whisker")] if count else []
        marks.append(element("g", element("title", said), bar, *whisker, data_row=row))
    marks += [line((x(0), _TOP), (x(0), y(0)), "zero")]
    marks += _bottom(x, [(value, number(value, 0)) for value in ticks(float(edges[0]), float(edges[-1]), 6)])
    outside = f", {beyond:,} beyond the ends" if beyond else ""
    marks += [
        text((0, 12), f"questions, bar: 95 %{outside}", "note"),
        _unit(width, "margin: log-likelihood, right − wrong, nats"),
    ]
    sides = [("second", "wrong preferred", x(0) - 8, "end"), ("first", "right preferred", x(0) + 8, "start")]
    marks += [text((at, _TOP + 4), said, f"note {side}", anchor) for side, said, at, anchor in sides]
    return drawing(
        width, _TOP + _HEIGHT + 42, *frame, *marks, kind=f"chart {kind}", label="Histogram of margins", columns=_MARGINS
    )


def length_chart(analysis: Analysis, width: int, kind: str) -> Markup:
    """Accuracy with its interval by difference in length."""
    bins = analysis.length_bins
    x = Scale(0, max(len(bins), 1), _LEFT, width - 12)
    y = Scale(0, 1, _TOP + _HEIGHT, _TOP)
    marks = _grid(width, y, [(value, percent(value, 0)) for value in (0, 0.25, 0.5, 0.75, 1)])
    chance = y(analysis.header.chance)
    marks.append(line((_LEFT, chance), (width - 12, chance), "limit"))
    for index, each in enumerate(bins):
        at, accuracy = x(index + 0.5), each.accuracy
        said = f"{each.low} to {each.high} tokens: {accuracy.count:,} of {accuracy.total:,} right"
        marks.append(
            element(
                "g",
                element("title", said),
                line((at, y(accuracy.low)), (at, y(accuracy.high)), "whisker"),
                dot((at, y(accuracy.share)), 4.5, "ink solid"),
                data_row=f"{each.low},{each.high},{accuracy.count},{accuracy.total},{accuracy.low:.4f},{accuracy.high:.4f}",
            )
        )
        names = [_signed(each.low), *([f"to {_signed(each.high)}"] if each.high > each.low else [])]
        marks += [text((at, y(0) + 18 + 14 * row), name, "tick", "middle") for row, name in enumerate(names)]
    marks += [
        text((0, 12), "accuracy, 95 % interval", "note"),
        _unit(width, "length, right − wrong solution, tokens", 14),
    ]
    return drawing(
        width,
        _TOP + _HEIGHT + 56,
        *marks,
        kind=f"chart {kind}",
        label="Accuracy by difference in length",
        columns=_LENGTHS,
    )


def _frame(width: int, ends: tuple[float, float], highest: float) -> tuple[Scale, Scale, list[Markup]]:
    x = Scale(*ends, _LEFT, width - 12)
    y = Scale(0, highest * 1.05, _TOP + _HEIGHT, _TOP)
    return x, y, _grid(width, y, [(value, f"{value:g}") for value in ticks(0, highest, 3)])


def _grid(width: int, y: Scale, marked: list[tuple[float, str]]) -> list[Markup]:
    lines = [line((_LEFT, y(value)), (width - 12, y(value)), "grid") for value, _ in marked]
    return [*lines, *(text((_LEFT - 8, y(value) + 4), label, "tick", "end") for value, label in marked)]


def _bottom(x: Scale, marked: list[tuple[float, str]]) -> list[Markup]:
    return [text((x(value), _TOP + _HEIGHT + 18), label, "tick", "middle") for value, label in marked]


def _unit(width: int, said: str, lower: int = 0) -> Markup:
    return text(((_LEFT + width - 12) / 2, _TOP + _HEIGHT + 38 + lower), said, "note", "middle")


def _signed(value: int) -> str:
    return f"{value:+d}".replace("-", "−") if value else "0"
