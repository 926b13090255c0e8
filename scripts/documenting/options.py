"""The page of commands and options, from the command line's own docstrings."""

from layerscope import cli
from layerscope.config import Config
from layerscope.config.ablation import AblationOptions
from layerscope.config.help import explanations, summary_of
from layerscope.config.options import Option, by_groups, options_of

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
    commands = [f"| `layerscope {name}` | {summary_of(function)} |" for name, function in cli.COMMANDS.items()]
    parts = [HEAD + "\n".join(commands)]
    for title, settings in (("`run` and `plan`", Config), ("`ablate`", AblationOptions)):
        parts.append(f"## Options of {title}")
        said = explanations(settings)
        for group, options in by_groups(options_of(settings)).items():
            rows = [f"| {_spelt(one)} | {_default(one)} | {_cell(said[one.target])} |" for one in options]
            parts += [f"### {group[0].upper()}{group[1:]}", "\n".join([*_COLUMNS, *rows])]
    return "\n\n".join(parts) + "\n"


def _spelt(one: Option) -> str:
    """The option, and the words it takes where there are no others."""
    words = f" {' / '.join(one.words)}" if one.words and one.takes == "|".join(one.words) else ""
    return f"`{one.name}`{words}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(one: Option) -> str:
    if one.is_flag:
        return "off"
    told = one.default_told.removeprefix("default: ")
    return f"`{told}`" if told != one.default_told else told or "none"
