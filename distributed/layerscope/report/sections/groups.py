"""Questions by their metadata: which columns one can filter by, and how often the model is right in each group."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from markupsafe import Markup
from msgspec import UNSET, UnsetType

from layerscope.analysis.columns.arrays import Ints
from layerscope.analysis.result import Analysis
from layerscope.analysis.testing.proportion import Proportion
from layerscope.analysis.testing.statistics import proportion
from layerscope.formatting import count_of, visible
from layerscope.records.reading.run import RecordsFile
from layerscope.report.charts.svg import Scale, dot, element, line
from layerscope.report.words.sentences import interval, percent

VALUES = 24
"""A column with more values than that is none to filter by."""
_COLUMNS = 8
_LONGEST = 60  # characters of a value
_WIDTH = 240
MISSING = "(none)"


class _Line(msgspec.Struct):
    """All that is read of a line."""

    example_id: int
    metadata: dict[str, Any] | UnsetType = UNSET


@dataclass(frozen=True)
class Column:
    """A column of the questions' file with a few values."""

    name: str
    values: tuple[str, ...]
    """Sorted."""
    of: Ints
    """[Q] Which of them a scored question has."""


@dataclass(frozen=True)
class Group:
    """The questions of a value."""

    value: str
    accuracy: Proportion
    picture: Markup


def read_columns(run: RecordsFile, analysis: Analysis, progress: Callable[[float], None]) -> tuple[Column, ...]:
    """The columns that a page groups by, read from every line of the file; none where its records have no metadata."""
    if not run.has_metadata:
        return ()
    order = np.argsort(analysis.questions.example_id)
    ids = analysis.questions.example_id[order]
    decoder = msgspec.json.Decoder(_Line)
    found: dict[str, _Growing] = {}
    dropped: set[str] = set()
    for text in run.lines():
        read = decoder.decode(text)
        progress(min(1.0, run.bytes_read / run.size))
        place = int(np.searchsorted(ids, read.example_id))
        if read.metadata is UNSET or place == len(ids) or ids[place] != read.example_id:
            continue
        for name, value in read.metadata.items():
            if name in dropped:
                continue
            said = _said(value)
            column = found.setdefault(name, _Growing(bytearray(len(ids))))
            column.codes[order[place]] = column.values.setdefault(said, len(column.values) + 1)
            if len(column.values) > VALUES or len(said) > _LONGEST:
                dropped.add(name)
                del found[name]
    columns = (_column(name, column) for name, column in found.items())
    return tuple(column for column in columns if len(column.values) > 1)[:_COLUMNS]


@dataclass
class _Growing:
    """A column while it is read: a byte a question."""

    codes: bytearray
    """[Q] 0 where the question has no such key."""
    values: dict[str, int] = field(default_factory=dict)


def _said(value: Any) -> str:
    if value is None or value == "":
        return MISSING
    return visible(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _column(name: str, column: _Growing) -> Column:
    codes = np.frombuffer(column.codes, dtype=np.uint8)
    said = {0: MISSING} | {code: value for value, code in column.values.items()}
    there = {code: said[code] for code in np.unique(codes).tolist()}
    values = sorted(set(there.values()), key=lambda value: (_number(value), value))
    place = np.zeros(len(said), dtype=np.int64)
    for code, value in there.items():
        place[code] = values.index(value)
    return Column(visible(name), tuple(values), place[codes])


def _number(value: str) -> float:
    """Numbers are ordered as such, before words."""
    try:
        return float(value)
    except ValueError:
        return float("inf")


def groups_of(analysis: Analysis, column: Column) -> list[Group]:
    """The accuracy in each of a column's groups; a goal group counts as in the accuracy of all."""
    questions = analysis.questions
    groups = []
    for number, value in enumerate(column.values):
        inside = column.of == number
        _, goal = np.unique(questions.group[inside], return_inverse=True)
        accuracy = proportion(questions.correct[inside], goal)
        groups.append(Group(value, accuracy, share_picture(accuracy, analysis.header.accuracy.share)))
    return groups


def groups_title(column: Column, groups: list[Group]) -> str:
    """What stands over a column's table: of the two groups that lie farthest apart, or of the extremes if none do."""
    known = sorted((group for group in groups if group.accuracy.total), key=lambda group: group.accuracy.share)
    if len(known) < 2:
        return f"{column.name}: one group alone has questions"
    low, high = known[0], known[-1]
    if low.accuracy.share == high.accuracy.share:
        return f"{column.name}: accuracy is the same, {percent(low.accuracy.share)}, in all of {len(known)} groups"
    surest = min(known, key=lambda group: group.accuracy.high), max(known, key=lambda group: group.accuracy.low)
    if apart := surest[0].accuracy.high < surest[1].accuracy.low:
        low, high = surest
    told = (
        f"{percent(low.accuracy.share, 0)} where it is {low.value} ({count_of(low.accuracy.total, 'question')}), "
        f"{percent(high.accuracy.share, 0)} where it is {high.value} ({count_of(high.accuracy.total, 'question')})"
    )
    but = "" if apart else "; their intervals overlap, so it is not shown to matter"
    return f"{column.name}: accuracy is {told}{but}"


def interval_of(group: Group) -> str:
    return interval(group.accuracy)


def share_picture(accuracy: Proportion, whole: float) -> Markup:
    """A share with its interval between 0 and 1; a line where that of all questions lies."""
    at = Scale(0, 1, 6, _WIDTH - 6)
    marks = [line((at(0), 9), (at(1), 9), "grid"), line((at(whole), 1), (at(whole), 17), "limit")]
    if accuracy.total:
        marks += [
            line((at(accuracy.low), 9), (at(accuracy.high), 9), "whisker"),
            dot((at(accuracy.share), 9), 4, "ink solid"),
        ]
    return element(
        "svg", *marks, class_="chart share", width=_WIDTH, height=18, viewBox=f"0 0 {_WIDTH} 18", aria_hidden="true"
    )
