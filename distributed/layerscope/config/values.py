"""What the texts of single options mean: which readings, columns, layers, shard and prompt they name."""

import re

from layerscope.errors import UsageError, did_you_mean

READINGS = ("final", "last-word", "max", "prompt")
"""Which of a solution's tokens are encoded, and how they become one list; in the order of the record."""
STANDARD_INPUT = "-"
"""For `--dataset`: the questions come that way."""
CHAT = "chat"
"""For `--prompt`, the chat template of the model's tokeniser."""
_PARTS = re.compile(r"goal|choices|label|sol[1-9]\d?")
_SOLUTION = r"solution|sol\d*|answer|completion"


def parse_shard(text: str) -> tuple[int, int]:
    """Which part `--shard` names, of how many; the first is 1.

    Raises:
        UsageError: it is not of the form 3/16.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard is {text!r}; it is 1/16 for the first of sixteen parts, up to 16/16 for the last.")
    return int(match[1]), int(match[2])


def parse_readings(text: str) -> tuple[str, ...]:
    """The readings that `--readings` names, in the order of the record; `final` is always among them.

    Raises:
        UsageError: for anything but a comma-separated list of readings, each once.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in READINGS:
            hint = did_you_mean(name, READINGS)
            raise UsageError(
                f"--readings has {name!r}, which is no reading.{hint}\nName some of {', '.join(READINGS)}, with commas."
            )
        if names.count(name) > 1:
            raise UsageError(f"--readings names {name} twice.\nName each reading once.")
    return tuple(name for name in READINGS if name == "final" or name in names)


def parse_baseline(text: str) -> str | None:
    """The file of means that `--attribution-baseline` names; None for `zero`.

    Raises:
        UsageError: it is neither zero nor of the form mean:FILE.
    """
    kind, _, file = text.partition(":")
    if text != "zero" and (kind != "mean" or not file):
        raise UsageError(
            f"--attribution-baseline is {text[:80]!r}; it is zero, or mean:FILE with a file that "
            "layerscope.write_means made."
        )
    return file or None


def parse_columns(text: str) -> dict[str, str]:
    """What `--columns` names: by part of a question its column.

    Raises:
        UsageError: it is not of the form goal=question,sol1=good,sol2=bad,label=answer.
    """
    named: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        part, equals, column = (word.strip() for word in pair.partition("="))
        if not _PARTS.fullmatch(part) or not equals or not column or part in named:
            hint = "" if _PARTS.fullmatch(part) else did_you_mean(part, ("goal", "choices", "label", "sol1", "sol2"))
            raise UsageError(
                f"--columns has {pair!r}.{hint} It is made of parts and columns such as "
                "goal=question,sol1=good,sol2=bad,label=answer, each part once.\n"
                "The parts are goal, sol1, sol2, sol3 and so on, choices and label; choices names one column with all "
                "solutions."
            )
        named[part] = column
    several = {part: column for part, column in named.items() if part.startswith("sol")}
    if several and (
        "choices" in named or len(several) < 2 or set(several) != set(map("sol{}".format, range(1, len(several) + 1)))
    ):
        raise UsageError("--columns names sol1, sol2 and so on without a gap, or choices in place of them.")
    for part, column in several.items():
        if list(several.values()).count(column) > 1:
            raise UsageError(
                f"--columns has {column!r} for {part} and another one, which would be the same everywhere."
            )
    return named


def parse_metadata(text: str) -> tuple[str, ...] | None:
    """The columns that `--metadata` names; none for `none`, and None for all that are no part of the question.

    Raises:
        UsageError: a name is empty, or there twice.
    """
    if text in ("none", "all"):
        return () if text == "none" else None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"--metadata is {text[:80]!r}; it is none, all, or names of columns, each once: id,category.")
    return names


def parse_prompt(template: str, separator: str) -> tuple[str, str]:
    """The template that `--prompt` gives, and what comes between it and a solution; nothing is read for `chat`.

    Blanks at the template's end become the separator's: they are no tokens of their own before a word.

    Raises:
        UsageError: the template has no place for the question, one for a solution, or a blank at its end too many; or
            the separator has a place for anything.
    """
    template, separator = _unescaped(template), _unescaped(separator)
    if found := re.search(rf"\{{(goal|{_SOLUTION})\}}", separator):
        raise UsageError(
            f"--solution-separator is {separator[:80]!r}, with {found[0]}; it stands before every solution as it is.\n"
            "Put {goal} into --prompt; the solution follows by itself."
        )
    if template == CHAT:
        return CHAT, "" if separator == "auto" else separator
    if "{goal}" not in template:
        raise UsageError(
            f"--prompt is {template[:80]!r}, without {{goal}}: every question would be the same.\n"
            "Put {goal} where the question belongs, or take --prompt chat."
        )
    if found := re.search(rf"\{{({_SOLUTION})\}}", template):
        raise UsageError(
            f"--prompt is {template[:80]!r}, with {found[0]}; a solution follows the prompt by itself.\n"
            "End it where the solution begins."
        )
    bare = template.rstrip(" \t")
    if bare != template and separator == "auto":
        raise UsageError(
            "--prompt ends with a blank, and the solution follows after one: its first word would be read after two.\n"
            "Leave out the one at the end, or give --solution-separator '' as well."
        )
    return bare, template[len(bare) :] + (" " if separator == "auto" else separator)


def _unescaped(text: str) -> str:
    r"""The text with new lines for \n and tabs for \t, which few type into a shell, and one backslash for two."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], "\\"), text)


def parse_layers(text: str) -> frozenset[int] | None:
    """The layers that `--layers` names, or None for all of them.

    Raises:
        UsageError: for anything but `all` or a comma-separated list of numbers and ascending ranges.
    """
    if text == "all":
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if match is None:
            raise UsageError(f"--layers is {text!r}; it is all, or numbers and ranges such as 0-25 or 8,20.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"--layers has the range {part.strip()}, which runs backwards; write {last}-{first}.")
        layers.update(range(first, last + 1))
    return frozenset(layers)
