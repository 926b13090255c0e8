"""What the help of a command says: what it does, and what each of its options is, from docstrings."""

import ast
import inspect
import itertools
import re
import shutil
import textwrap
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from layerscope.config.options import HELP, are_settings

_NAMES_WIDTH, _LEAST_WIDTH = 22, 24


class Columns(RawDescriptionHelpFormatter):
    """argparse's help in the terminal's width, in which no option is broken at its hyphens."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_NAMES_WIDTH + 2, width=_width())

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def description_of(function: Callable[..., Any]) -> str:
    """Its docstring, without what is said of arguments, in the terminal's width."""
    text = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0].strip()
    return "\n\n".join(map(_wrapped, text.split("\n\n"))).replace("%", "%%")


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
