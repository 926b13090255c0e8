"""Which solution is right, however a column says it: 0 and 1, 1 and 2, letters, names, true and false."""

import json
from array import array
from collections.abc import Sequence
from typing import Literal

from layerscope.errors import UsageError
from layerscope.formatting import visible

FirstLabel = Literal["auto", "0", "1"]
_NUMBERS = {"0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2}
_NAMES = {"sol1": 0, "sol2": 1, "a": 0, "b": 1, "false": 0, "true": 1}
_NAMED = 8  # is added to what a name says, which counts from nowhere
_ADVICE = "a label is 0 (sol1 is right) or 1 (sol2 is right)"


class Labels:
    """The labels of a column: whether its numbers count from 0 or from 1 is known when all of them are."""

    def __init__(self) -> None:
        self._found = array("b")
        self._first: dict[int, tuple[str, str]] = {}
        """Where each number stands first, and how."""

    def take(self, value: object, where: str, names: Sequence[str] = (), texts: Sequence[str] = ()) -> None:
        """Notes the label of the next row.

        Args:
            names: what the row itself calls its solutions.
            texts: the solutions.

        Raises:
            UsageError: it is none.
        """
        text = str(value).strip() if isinstance(value, int | float | str) else ""
        if text in names:
            if list(names).count(text) > 1:
                raise UsageError(f"{where} has the label {shown(value)}, and more than one solution of that name.")
            self._found.append(_NAMED + _index(names.index(text), value, where))
        elif text in _NUMBERS and not isinstance(value, bool):
            self._first.setdefault(_NUMBERS[text], (where, shown(value)))
            self._found.append(_NUMBERS[text])
        elif (name := text.lower()) in _NAMES:
            if [one.strip().lower() for one in texts].count(name) == 1 and texts[_NAMES[name]].strip().lower() != name:
                raise UsageError(
                    f"{where} has the label {shown(value)}: by its name sol{_NAMES[name] + 1}, and by its text the "
                    f"other one. Nobody can say which counts; {_ADVICE}."
                )
            self._found.append(_NAMED + _NAMES[name])
        elif isinstance(value, str) and list(texts).count(value) == 1:
            self._found.append(_NAMED + list(texts).index(value))
        else:
            hint = " (-1 stands in PIQA's test split, which has no labels)" if text in ("-1", "-1.0") else ""
            raise UsageError(
                f"{where} has the label {shown(value)}{hint}; {_ADVICE}; or 1 and 2, A and B, sol1 and sol2."
            )

    def settle(self, first_label: FirstLabel, own: bool) -> "array[int]":
        """0 or 1 for every row.

        Args:
            first_label: what number the first solution has, if the user says so.
            own: whether the layout is layerscope's own, whose labels count from 0 unless they say otherwise.

        Raises:
            UsageError: they count from nowhere, or it cannot be told from where.
        """
        from_zero, from_one = 0 in self._first, 2 in self._first
        if (from_one and (from_zero or first_label == "0")) or (from_zero and first_label == "1"):
            where, label = self._first[2 if from_one else 0]
            but = "others have 0" if from_zero and from_one else f"--first-label is {first_label}"
            raise UsageError(f"{where} has the label {label}, and {but}; {_ADVICE}, or all are 1 and 2.")
        if first_label == "auto" and 1 in self._first and not (from_zero or from_one or own):
            raise UsageError(
                f"All labels that are numbers are 1 (the first at {self._first[1][0]}): the first solution if they "
                "count from 1, the second if from 0.\nSay which: --first-label 0 or --first-label 1."
            )
        base = 1 if from_one or first_label == "1" else 0
        return array("b", (code - _NAMED if code >= _NAMED else code - base for code in self._found))


def _index(index: int, value: object, where: str) -> int:
    if index > 1:
        raise UsageError(f"{where} has the label {shown(value)}, a solution beyond the second.")
    return index


def shown(value: object) -> str:
    """A value as it stands in JSON, what is long cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value))
    return visible(text if len(text) <= 80 else text[:77] + "…")
