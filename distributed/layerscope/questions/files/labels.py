"""Which solution is right, however a column says it: 0 and 1, 1 and 2, letters, names, true and false."""

import json
import re
from array import array
from collections.abc import Sequence
from typing import Literal

from layerscope.errors import UsageError
from layerscope.formatting import visible

FirstLabel = Literal["auto", "0", "1"]
_WHOLE = re.compile(r"(\d{1,4})(\.0+)?")
_NAMED = 1000  # is added to what a name says, which counts from nowhere
_BY_PLACE = "Others are texts that are numbers, so name the right one by its place in every row: sol1, sol2 and so on."
_ADVICE = "a label is 0 (sol1 is right) or 1 (sol2 is right)"
_OF_TWO = f"{_ADVICE}; or 1 and 2, A and B, sol1 and sol2"


class Labels:
    """The labels of a column: whether its numbers count from 0 or from 1 is known when all of them are."""

    def __init__(self) -> None:
        self._found = array("h")
        self._zero: tuple[str, str] | None = None
        """Where a number stands first that counts from 0, and how."""
        self._last: tuple[str, str] | None = None
        """Where one stands first that counts from 1: as many as there are solutions."""
        self._between: tuple[str, str] | None = None
        """Where another one stands first."""
        self._otherwise: dict[int, tuple[str, str]] = {}
        """Where a number stands first that is the text of another solution than the one it counts to, from 0 or 1."""
        self.base = 0
        """What number the first solution has, known when all are."""
        self._texts_are_numbers = False
        """Some label is a number that can only be the text of a solution."""

    def take(self, value: object, where: str, names: Sequence[str] = (), texts: Sequence[str] = ("", "")) -> None:
        """Notes the label of the next row.

        Args:
            names: what the row itself calls its solutions.
            texts: the solutions.

        Raises:
            UsageError: it is none.
        """
        text = str(value).strip() if isinstance(value, int | float | str) else ""
        number, by_name = _number(value, text), _by_name(text, len(texts))
        if text in names:
            if list(names).count(text) > 1:
                raise UsageError(f"{where} has the label {shown(value)}, and more than one solution of that name.")
            self._found.append(_NAMED + _within(names.index(text), value, where, len(texts)))
        elif number is not None and number <= len(texts):
            self._note(number, len(texts), where, value)
            if isinstance(value, str) and texts.count(text) == 1:
                for base in {0, 1} - {number - texts.index(text)}:
                    self._otherwise.setdefault(base, (where, shown(value)))
        elif by_name is not None and by_name < len(texts):
            name, own = text.lower(), texts[by_name].strip().lower()
            if [one.strip().lower() for one in texts].count(name) == 1 and own != name:
                raise UsageError(
                    f"{where} has the label {shown(value)}: by its name sol{by_name + 1}, and by its text "
                    f"{'the other' if len(texts) == 2 else 'another'} one. Nobody can say which counts; {_ADVICE}."
                )
            self._found.append(_NAMED + by_name)
        elif isinstance(value, str) and value and list(texts).count(value) == 1:
            self._found.append(_NAMED + list(texts).index(value))
            self._texts_are_numbers |= number is not None
        elif number is not None and len(texts) > 2:
            raise UsageError(f"{where} has the label {shown(value)}; {_expected(len(texts))}.")
        else:
            if by_name is not None:
                _within(by_name, value, where, len(texts))
            hint = " (-1 stands in test splits, which have no labels)" if text in ("-1", "-1.0") else ""
            raise UsageError(f"{where} has the label {shown(value)}{hint}; {_expected(len(texts))}.")

    def _note(self, number: int, solutions: int, where: str, value: object) -> None:
        if number == 0:
            self._zero = self._zero or (where, shown(value))
        elif number == solutions:
            self._last = self._last or (where, shown(value))
        else:
            self._between = self._between or (where, shown(value))
        self._found.append(number)

    def settle(self, first_label: FirstLabel, own: bool) -> "array[int]":
        """For every row which solution is right, from 0.

        Args:
            first_label: what number the first solution has, if the user says so.
            own: whether the layout is layerscope's own, whose labels count from 0 unless they say otherwise.

        Raises:
            UsageError: they count from nowhere, or it cannot be told from where.
        """
        zero, last = self._zero, self._last
        if (last and (zero or first_label == "0")) or (zero and first_label == "1"):
            where, label = last or zero or ("", "")
            but = f"others have 0 ({zero[0]})" if zero and last else f"--first-label is {first_label}"
            raise UsageError(f"{where} has the label {label}, and {but}; {_ADVICE}, or all are 1 and 2.")
        if first_label == "auto" and self._between and not (zero or last or own):
            numbers = sorted({code for code in self._found if code < _NAMED})
            first = f"the first at {self._between[0]}"
            told = f"are 1 ({first}): the first solution if they count from 1, the second if from 0"
            if len(numbers) > 1:
                told = f"are from {numbers[0]} to {numbers[-1]} ({first}), which may count from 0 or from 1"
            raise UsageError(f"All labels that are numbers {told}.\nSay which: --first-label 0 or --first-label 1.")
        base = 1 if last or first_label == "1" else 0
        if base in self._otherwise and (self._texts_are_numbers or (first_label == "auto" and not own)):
            where, label = self._otherwise[base]
            advice = (
                f"Say that labels are numbers with --first-label {base}, or name the right one: sol1, sol2 and so on."
            )
            raise UsageError(
                f"{where} has the label {label}, which is the text of another solution than the one of that number. "
                f"Nobody can say which counts.\n{_BY_PLACE if self._texts_are_numbers else advice}"
            )
        self.base = base
        # A byte each, as a run holds them: a question has not so many solutions that its label needs more.
        return array("B", (code - _NAMED if code >= _NAMED else code - base for code in self._found))


def _number(value: object, text: str) -> int | None:
    """The number that a label is, if it is a whole one."""
    whole = None if isinstance(value, bool) else _WHOLE.fullmatch(text)
    return int(whole[1]) if whole else None


def _by_name(text: str, solutions: int) -> int | None:
    """Which solution a name means, from 0: sol3, C, or, of two, false and true."""
    name = text.lower()
    if name in ("false", "true") and solutions == 2:
        return int(name == "true")
    if match := re.fullmatch(r"sol([1-9]\d{0,3})", name):
        return int(match[1]) - 1
    return ord(name) - ord("a") if re.fullmatch("[a-z]", name) else None


def _expected(solutions: int) -> str:
    """What a label may be."""
    if solutions == 2:
        return _OF_TWO
    letters = f", A to {chr(ord('A') + solutions - 1)}" if solutions <= 26 else ""
    return f"of {solutions} solutions a label is 0 to {solutions - 1}; or 1 to {solutions}{letters}, or the right text"


def _within(index: int, value: object, where: str, solutions: int) -> int:
    if index >= solutions:
        told = "the second" if solutions == 2 else f"the last of {solutions}"
        raise UsageError(f"{where} has the label {shown(value)}, a solution beyond {told}.")
    return index


def shown(value: object) -> str:
    """A value as it stands in JSON, what is long cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value))
    return visible(text if len(text) <= 80 else text[:77] + "…")
