"""The help of a command: what it does, and its options in groups, the most used first."""

import ast
import inspect
import itertools
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from layerscope.config.options import HELP, Option, are_settings, by_groups, options_of

_NAMES_WIDTH, _LEAST_WIDTH = 22, 24


def help_of(command: str, function: Callable[..., Any]) -> str:
    """What `layerscope COMMAND --help` prints, in the terminal's width."""
    options = options_of(function)
    said = explanations(function)
    places = [f"{one.name} [{one.name} ...]" if one.repeated else one.name for one in options if one.positional]
    text = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0]
    parts = [" ".join(["usage: layerscope", command, *places, "[options]"]), *map(_wrapped, text.strip().split("\n\n"))]
    for group, those in by_groups(options).items():
        lines = [line for one in those for line in _lines(_spelt(one), f"{said[one.target]}{_default(one)}")]
        parts.append("\n".join([f"{group}:", *lines]))
    parts.append("\n".join(_lines(", ".join(HELP), "Print this help and end.")))
    return "\n\n".join(parts)


def help_of_all(commands: Mapping[str, Callable[..., Any]]) -> str:
    """What `layerscope --help` prints."""
    lines = [line for name, function in commands.items() for line in _lines(name, summary_of(function))]
    more = [
        *_lines(", ".join(HELP), "Print this help, or that of a command behind it."),
        *_lines("--version", "Print the version and end."),
    ]
    return "\n".join(["usage: layerscope COMMAND [options]", "", "commands:", *lines, "", *more])


def summary_of(function: Callable[..., Any]) -> str:
    """The first paragraph of its docstring, on one line."""
    return inspect.cleandoc(function.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def explanations(made: Callable[..., Any]) -> dict[str, str]:
    """What is said of every parameter: in a function's docstring, and in the source under a field."""
    if are_settings(made):
        return _under_fields(made)
    found = {}
    _, _, listed = inspect.cleandoc(made.__doc__ or "").partition("\nArgs:\n")
    for match in re.finditer(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE):
        found[match[1]] = re.sub(r"\s+", " ", match[2])
    for kind in get_type_hints(made).values():
        if are_settings(kind):
            found |= _under_fields(kind)
    return found


def _under_fields(settings: Any) -> dict[str, str]:
    (body,) = (
        each.body
        for each in ast.parse(textwrap.dedent(inspect.getsource(settings))).body
        if isinstance(each, ast.ClassDef)
    )
    found = {}
    for field, said in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(said, ast.Expr):
            assert isinstance(said.value, ast.Constant)
            found[field.target.id] = re.sub(r"\s+", " ", str(said.value.value))
    return found


def _spelt(one: Option) -> str:
    return one.name if one.positional or one.is_flag else f"{one.name} {one.takes}"


def _default(one: Option) -> str:
    return f" ({one.default_told})" if one.default_told else ""


def _width() -> int:
    return max(min(shutil.get_terminal_size().columns, 120) - 1, _LEAST_WIDTH)


def _wrapped(text: str) -> str:
    return textwrap.fill(re.sub(r"\s+", " ", text), _width(), break_on_hyphens=False)


def _lines(name: str, said: str) -> list[str]:
    """A name and what is said of it, in two columns where there is room for them."""
    indent = _NAMES_WIDTH + 2 if _width() >= 3 * _NAMES_WIDTH else 6
    told = textwrap.wrap(said, _width() - indent, break_on_hyphens=False) or [""]
    first = f"  {name}"
    if len(first) + 2 > indent:
        return [first, *(" " * indent + line for line in told)]
    return [first.ljust(indent) + told[0], *(" " * indent + line for line in told[1:])]
