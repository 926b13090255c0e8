"""Where a row has its question: the columns of common layouts, and those that a user names.

A layout is found by the columns of the first row, and holds for all of them.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from layerscope.errors import UsageError, did_you_mean
from layerscope.formatting import count_of, visible
from layerscope.questions.files.cells import choices_in, json_type, text_in
from layerscope.questions.files.labels import FirstLabel, Labels, shown

_MOST_PROBLEMS = 10  # told at once
_MOST_SOLUTIONS = 100  # of a question


@dataclass(frozen=True)
class Layout:
    """The columns that a question is made of."""

    goal: str
    """Empty where there is none: the solutions stand alone."""
    solutions: tuple[str, ...]
    """Columns with a text each, or one with all of them."""
    label: str
    """Empty where the first solution is always the right one."""
    inside: str = ""
    """The column whose object has these columns, if it is not the row itself."""
    repeated: bool = False
    """A question may have the same solution twice."""

    def texts(self, row: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...]]:
        """Goal and solutions.

        Raises:
            UsageError: one is not there, or not a text; or there is one solution alone, or the same twice, or too many.
        """
        row = self._inner(row, where)
        goal = text_in(row, self.goal, where) if self.goal else ""
        if len(self.solutions) > 1:
            texts = tuple(text_in(row, column, where) for column in self.solutions)
            self._check_differ(texts, where)
            return goal, texts
        (column,) = self.solutions
        choices, _ = choices_in(row, column, where)
        if not 2 <= len(choices) <= _MOST_SOLUTIONS:
            raise UsageError(
                f"{where} has {count_of(len(choices), 'solution')} in {column!r}; a question has at least two, to be "
                f"compared, and at most {_MOST_SOLUTIONS}."
            )
        self._check_differ(choices, where)
        return goal, tuple(choices)

    def texts_again(self, row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """The same of a row that was looked at before: where its texts lie side by side, nothing is checked again."""
        if self.inside or len(self.solutions) == 1:
            return self.texts(row, "")
        return row[self.goal] if self.goal else "", tuple([row[column] for column in self.solutions])

    def _check_differ(self, texts: Sequence[str], where: str) -> None:
        if self.repeated or len(set(texts)) == len(texts):
            return
        if twice := next((text for text, count in Counter(texts).items() if count > 1 and text.strip()), ""):
            several = len(self.solutions) > 1
            columns = visible(" and ".join(self.solutions)) if several else repr(self.solutions[0])
            raise UsageError(f"{where} has {shown(twice)} twice in {columns}; solutions must differ.")

    def label_of(self, row: Mapping[str, Any], where: str) -> tuple[object, Sequence[str]]:
        """The label as it stands there, and by what names it may call the solutions."""
        row = self._inner(row, where)
        if self.label not in row:
            raise UsageError(f"{where} has no {self.label!r}, though other lines have one.")
        names = choices_in(row, self.solutions[0], where)[1] if len(self.solutions) == 1 else ()
        return row[self.label], names

    def told(self) -> str:
        """What is taken for what, for people; empty for layerscope's own layout."""
        if self == OWN:
            return ""
        of_label = f"label from {self.label}" if self.label else f"{self.solutions[0]} is the right one"
        parts = [f"goal from {self.goal}" if self.goal else "no goal", f"solutions from {' and '.join(self.solutions)}"]
        return visible(", ".join([*parts, of_label]) + (f" (in {self.inside})" if self.inside else ""))

    def _inner(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        if not self.inside:
            return row
        if self.inside == _ARGUMENTS:
            return {**_asked(row, where), self.label: row.get(self.label)}
        inner = row.get(self.inside)
        if not isinstance(inner, dict):
            raise UsageError(f"{where} has no object {self.inside!r}, though the first has.")
        return inner

    def rest(self, row: Mapping[str, Any], names: Sequence[str] | None, where: str) -> dict[str, Any]:
        """Other columns of a row, by name.

        Args:
            names: which; null where the row has none of that name. None for all that no part of the question is in.
        """
        inner = self._inner(row, where)
        both = {**row, **inner} if self.inside else row
        if names is not None:
            return {name: both.get(name) for name in names}
        taken = {self.goal, *self.solutions, self.label, self.inside}
        return {name: value for name, value in both.items() if name not in taken}


OWN = Layout("goal", ("sol1", "sol2"), "label")
_KNOWN = (
    OWN,
    Layout("question", ("choices",), "answer"),  # MMLU
    Layout("question", ("choices",), "answerKey"),  # ARC
    Layout("prompt", ("chosen", "rejected"), ""),
    Layout("ctx", ("endings",), "label"),  # HellaSwag
    Layout("", ("sentence_good", "sentence_bad"), ""),  # BLiMP
    Layout("sentence", ("option1", "option2"), "answer"),  # Winogrande
)
_DOCUMENT = "doc"  # in which lm-eval's logs of samples keep the row
_ARGUMENTS = "arguments"  # and what the model was asked: by solution the text before it, and itself
_SAMPLES = Layout("text", ("choices",), "target", _ARGUMENTS)


def find_layout(row: Mapping[str, Any], named: Mapping[str, str], where: str) -> Layout:
    """The layout of rows like this one.

    Args:
        named: what `--columns` says.

    Raises:
        UsageError: a named column is not there, or the columns are of no layout that is known.
    """
    inner = row.get(_DOCUMENT)
    for columns, inside in ((row, ""), *([(inner, _DOCUMENT)] if isinstance(inner, dict) else [])):
        if named:
            found = _named_layout(columns, named)
        else:
            known = (one for one in _KNOWN if {one.goal, *one.solutions, one.label} - {""} <= columns.keys())
            found = next(known, OWN if {"goal", "sol1", "sol2"} <= columns.keys() else None)
        if found:
            return Layout(found.goal, found.solutions, found.label, inside)
    if not named and isinstance(inner, dict) and _ARGUMENTS in row and _SAMPLES.label in row:
        return _SAMPLES
    there = ", ".join(visible(str(name))[:40] for name in list(row)[:20]) or "none"
    missing = [column for column in named.values() if column not in row]
    hint = did_you_mean(missing[0], map(str, row)) if missing else ""
    wrong = f"no column {visible(missing[0])}" if missing else "no goal, sol1, sol2 and label"
    if "positive_solution_details" in row:
        raise UsageError(
            f"{where} has {wrong}: it holds the records of a run.\n"
            "`layerscope report` and `layerscope status` read those; name the file of the questions."
        )
    raise UsageError(
        f"{where} has {wrong}. Its columns: {there}.{visible(hint)}\n"
        "Say which is which: --columns goal=COLUMN,sol1=COLUMN,sol2=COLUMN,label=COLUMN (sol3=COLUMN and so on "
        "where there are more; choices=COLUMN for one with all solutions; label=sol1 where the first is always right)."
    )


def _named_layout(columns: Mapping[str, Any], named: Mapping[str, str]) -> Layout | None:
    several = sorted({"sol1", "sol2", *named} - {"goal", "label", "choices"}, key=lambda part: int(part[3:]))
    solutions = (named["choices"],) if "choices" in named else tuple(named.get(part, part) for part in several)
    label = named.get("label", "label")
    if label == "sol1" and label not in columns:
        label = ""
    layout = Layout(named.get("goal", "goal"), solutions, label)
    return layout if {layout.goal, *solutions, label} - {""} <= columns.keys() else None


@dataclass(frozen=True)
class Rules:
    """What the user says of how rows are read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """By part of a question, where `--columns` names it."""
    first_label: FirstLabel = "auto"
    metadata: tuple[str, ...] | None = ()
    """Other columns that are kept; None for all."""
    repeated: bool = False
    """A question may have the same solution twice, as some of known benchmarks do."""


@dataclass
class Understanding:
    """How the rows of one source are read, one after the other, and what is wrong with them."""

    rules: Rules
    labels_beside: Callable[[], "array[int] | None"] = lambda: None
    """The labels of a file of their own, asked for if the first row has none."""
    layout: Layout | None = None
    _labels: Labels = field(default_factory=Labels)
    _problems: list[str] = field(default_factory=list)
    _beside: "array[int] | None" = None
    solutions: int = 2
    """Of the question with the most."""
    _rows: int = 0

    def take(self, row: object, where: str) -> tuple[str, tuple[str, ...]] | None:
        """Goal and solutions of the next row; None where something is wrong with it, which is told in the end."""
        self._rows += 1
        try:
            if not isinstance(row, dict):
                raise UsageError(
                    f"{where} is {json_type(row)}.\nEvery line must be one JSON object with goal, sol1 and sol2."
                )
            if self.layout is None:
                found = find_layout(row, self.rules.columns, where)
                self.layout = replace(found, repeated=self.rules.repeated)
                self._check_metadata(self.layout, row, where)
                if self.layout.label and self.layout == OWN and "label" not in row:
                    self._beside = self.labels_beside()
            texts = self.layout.texts(row, where)
            self._take_label(self.layout, row, texts[1], where)
            self.solutions = max(self.solutions, len(texts[1]))
        except UsageError as error:
            self.problem(error)
            return None
        return texts

    def told(self) -> str:
        """What was understood, for people; empty for two solutions in layerscope's own columns."""
        of_labels = f"numbers count from {self._labels.base}" if self._labels.base else ""
        more = f"up to {self.solutions} solutions a question" if self.solutions > 2 else ""
        return "; ".join(filter(None, (self.layout.told() if self.layout else "", of_labels, more)))

    def _take_label(self, layout: Layout, row: Mapping[str, Any], texts: Sequence[str], where: str) -> None:
        if self._beside is not None:
            if layout.label in row:
                raise UsageError(f"{where} has a 'label', though the first line has none and the labels file was read.")
        elif layout.label:
            value, names = layout.label_of(row, where)
            where = where if layout.label == OWN.label else f"{where}, column {visible(layout.label)}"
            self._labels.take(value, where, [*names], texts)

    def _check_metadata(self, layout: Layout, row: Mapping[str, Any], where: str) -> None:
        others = layout.rest(row, None, where)
        there = {**row, **others}
        if missing := [name for name in self.rules.metadata or () if name not in there]:
            named = ", ".join(visible(str(name))[:40] for name in list(others)[:20]) or "none"
            raise UsageError(
                f"{where} has no column {visible(missing[0])}, which --metadata names. Its other columns: {named}."
                f"{visible(did_you_mean(missing[0], map(str, others)))}"
            )

    def problem(self, error: UsageError) -> None:
        """Notes what is wrong with a row; ends with it where nothing can be read further, or when there are enough."""
        self._problems.append(str(error))
        if self.layout is None or len(self._problems) >= _MOST_PROBLEMS:
            self.finish()

    def finish(self) -> "array[int]":
        """The label of every row: which solution is right, from 0.

        Raises:
            UsageError: what was wrong, up to ten times.
        """
        if not self._problems and self._beside is None and self.layout is not None and self.layout.label:
            try:
                return self._labels.settle(self.rules.first_label, self.layout == OWN)
            except UsageError as error:
                self._problems.append(str(error))
        if self._problems:
            more = "\nThere may be more." if len(self._problems) >= _MOST_PROBLEMS else ""
            raise UsageError("\n".join(self._problems) + more)
        return self._beside if self._beside is not None else array("h", bytes(2 * self._rows))


def _asked(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What lm-eval asked of a question, by its log: the whole text before the solutions, and them without the space.

    Raises:
        UsageError: it is no question of several solutions behind one text.
    """
    try:
        pairs = [(each["arg_0"], each["arg_1"]) for each in row[_ARGUMENTS].values()]
        ((before,), choices) = {before for before, _ in pairs}, [after for _, after in pairs]
        return {_SAMPLES.goal: before, "choices": [choice.removeprefix(" ") for choice in choices]}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{where} has other {_ARGUMENTS!r} than lm-eval logs for multiple_choice: solutions behind one text.\n"
            "Say which columns of its doc are which: --columns goal=COLUMN,choices=COLUMN,label=COLUMN."
        ) from error
