"""What stands in a cell of a row: a text, or the texts of all solutions; what is neither is named with its place."""

import re
from collections.abc import Mapping
from typing import Any

from layerscope.errors import UsageError
from layerscope.formatting import visible
from layerscope.questions.files.labels import shown
from layerscope.strict_json import parse_object


def text_in(row: Mapping[str, Any], column: str, where: str) -> str:
    """A text.

    Raises:
        UsageError: there is none.
    """
    value = row.get(column)
    if not isinstance(value, str):
        problem = f"has {json_type(value)} for {column!r}" if column in row else f"has no {column!r}"
        raise UsageError(f"{where} {problem}; goal and solutions must be strings.")
    return value


def choices_in(row: Mapping[str, Any], column: str, where: str) -> tuple[list[str], list[str]]:
    """The texts of a column with several, and the names that go with them, if it has any.

    Raises:
        UsageError: there are none.
    """
    if column not in row:
        raise UsageError(f"{where} has no {column!r}; it must be an array of strings.")
    value: Any = row.get(column)
    if isinstance(value, str) and re.match(r"\s*[\[{]", value):  # as a table of text holds it
        try:
            value = parse_object(value.encode())
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} has {visible(value[:60])} for {column!r}, which is no JSON: {error}.") from error
    names: object = []
    if isinstance(value, dict):
        value, names = value.get("text"), value.get("label", [])
    if not isinstance(value, list):
        found = shown(value) if isinstance(value, str) else json_type(value)
        raise UsageError(f"{where} has {found} for {column!r}; it must be an array of strings.")
    for other in (one for one in value if not isinstance(one, str)):
        raise UsageError(f"{where} has {json_type(other)} ({shown(other)}) in {column!r}; solutions must be strings.")
    return value, [str(name) for name in names] if isinstance(names, list) else []


def json_type(value: object) -> str:
    """What kind of JSON a value is, or, where no JSON holds it, what else; for people."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    names |= {int: "number", float: "number"}
    kind = type(value)
    return f"a JSON {names[kind]}" if kind in names else f"a value of type {kind.__name__}"
