"""The page of commands and options, from the command line's own docstrings."""

import ast
import inspect
import itertools
import textwrap
from dataclasses import MISSING, Field, fields
from typing import Literal, get_args, get_origin

from layerscope import cli
from layerscope.config import Config, option
from layerscope.config.ablation import AblationOptions

GROUPS = {
    "model": "Which model, SAEs and layers",
    "dataset": "Which questions",
    "top_k": "What is computed",
    "output_file": "Where the records go",
    "device": "On what, and how the work is spread",
    "standin": "To try it",
}
"""Headings, each above the option that begins its table."""

HEAD = """\
# Commands and options

*Made from the code by `scripts/make_docs.py`; edit the docstrings there.*

`layerscope COMMAND --help` prints the same. What changes a number is in the manifest, and a file is only continued with
the same settings; how the work is spread, and on what cluster, changes no byte.

## Commands

| command | what it does |
|---|---|
"""

_COLUMNS = ("| option | default | what it decides |", "|---|---|---|")


def options_page() -> str:
    """The page, in Markdown."""
    commands = [
        f"| `layerscope {name}` | {_first_paragraph(function.__doc__)} |"
        for name, function in vars(cli).items()
        if inspect.isfunction(function) and function.__module__ == cli.__name__ and _is_command(name)
    ]
    parts = [HEAD + "\n".join(commands), "## Options of `run` and `plan`"]
    explained = _explanations(Config)
    rows: list[str] = []
    for field in fields(Config):
        if field.name in GROUPS:
            parts.append(f"### {GROUPS[field.name]}")
            rows = list(_COLUMNS)
            parts.append("")
        rows.append(f"| {_spelling(field)} | {_default(field)} | {explained[field.name]} |")
        parts[-1] = "\n".join(rows)
    explained = _explanations(AblationOptions)
    of_ablate = [
        f"| {_spelling(each)} | {_default(each)} | {explained[each.name]} |" for each in fields(AblationOptions)
    ]
    parts += ["## Options of `ablate`", "\n".join([*_COLUMNS, *of_ablate])]
    return "\n\n".join(parts) + "\n"


def _is_command(name: str) -> bool:
    return not name.startswith("_") and name != "main"


def _first_paragraph(text: str | None) -> str:
    return inspect.cleandoc(text or "").split("\n\n")[0].replace("\n", " ")


def _explanations(settings: type) -> dict[str, str]:
    """The docstring under each setting, which only the source has."""
    (body,) = (
        node.body
        for node in ast.parse(textwrap.dedent(inspect.getsource(settings))).body
        if isinstance(node, ast.ClassDef)
    )
    explained = {}
    for field, said in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(said, ast.Expr):
            assert isinstance(said.value, ast.Constant)
            explained[field.target.id] = inspect.cleandoc(str(said.value.value)).replace("\n", " ").replace("|", "\\|")
    return explained


def _spelling(field: "Field[object]") -> str:
    """The option, and the words it takes where there are no others."""
    words = get_args(field.type) if get_origin(field.type) is Literal else ()
    return f"`{option(field.name)}`" + (f" {' / '.join(map(str, words))}" if words else "")


def _default(field: "Field[object]") -> str:
    if field.default is False:
        return "off"
    if field.default is MISSING:
        return "must be given"
    return f"`{field.default}`" if field.default not in ("", ()) else "none"
