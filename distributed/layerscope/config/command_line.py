"""The words of a command line as a command's parameters, or what is wrong with one of them and what was meant.

argparse reads them; which options there are is read from the command's function or settings.
"""

from argparse import SUPPRESS, ArgumentError, ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from layerscope.config.help import Columns, description_of, explanations
from layerscope.config.options import HELP, Option, are_settings, by_groups, options_of
from layerscope.errors import UsageError, did_you_mean

T = TypeVar("T")
Commands = Mapping[str, Callable[..., Any]]
_SHOWN = 80  # characters of a word in a message


def parser_of(command: str, function: Callable[..., Any]) -> ArgumentParser:
    """Of a command's words, by its function or by settings; its help has the options in groups, the most used first."""
    parser = _Parser(
        prog=f"layerscope {command}",
        description=description_of(function),
        formatter_class=Columns,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    options, said = options_of(function), explanations(function)
    for title, those in by_groups(options).items():
        group = parser.add_argument_group(title)
        for one in those:
            told = " ".join(filter(None, [said.get(one.target), one.default_told and f"({one.default_told})"]))
            name = one.target if one.positional else one.name
            group.add_argument(name, **_kind(one, command), default=SUPPRESS, help=_plain(told))
    places = [f"{one.name} [{one.name} ...]" if one.repeated else one.name for one in options if one.positional]
    parser.usage = _plain(" ".join(["layerscope", command, *places, "[options]"]))
    parser.add_argument_group("help").add_argument(*HELP, action="help", help="Print this help and end.")
    return parser


def call(function: Callable[..., T], words: Sequence[str], command: str, commands: Commands) -> T:
    """Calls a command's function, or makes settings, with what the words of a command line say.

    Args:
        command: whose words they are.
        commands: all there are, by name: whose an option is that is none of this one's.

    Raises:
        UsageError: a word is no option, has no value or one that cannot be, or one is missing.
    """
    options = options_of(function)
    parser = parser_of(command, function)
    try:
        found, left = parser.parse_known_intermixed_args(_with_dashes(words))
    except ArgumentError as error:
        one = next(one for one in options if one.name == error.argument_name)
        wrong = "takes no value" if one.is_flag else f"lacks its value, {one.takes}"
        raise UsageError(f"{one.name} {wrong}.{_see(command)}") from error
    given = {target: tuple(value) if isinstance(value, list) else value for target, value in vars(found).items()}
    if left:
        raise UsageError(f"{_unknown(options, left, command, commands)}{_see(command)}")
    for one in options:
        if one.default is MISSING and not given.get(one.target):
            raise UsageError(f"{one.name} is missing. {explanations(function)[one.target]}{_see(command)}")
    return _made(function, given)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _see(command: str) -> str:
    return f"\n`layerscope {command} --help` says what there is."


def _plain(text: str) -> str:
    """As argparse takes a text of which it fills in nothing."""
    return text.replace("%", "%%")


def _with_dashes(words: Sequence[str]) -> list[str]:
    """`--top-k` for `--top_k`, which is Python's spelling; a file behind `--`, which is no option, by its path."""
    ends = words.index("--") if "--" in words else len(words)
    split = [word.partition("=") for word in words[:ends]]
    spelt = [
        (name.replace("_", "-") if name.startswith("--") else name) + equals + text for name, equals, text in split
    ]
    return [*spelt, *(f"./{word}" if word.startswith("-") else word for word in words[ends + 1 :])]


def _kind(one: Option, command: str) -> dict[str, Any]:
    """How argparse is to take an option's words, and under which name: not always the option's own."""
    named = {} if one.positional else {"dest": one.target}
    if one.is_flag:
        return {"action": "store_true", **named}
    value: dict[str, Any] = {
        "type": partial(_value, one, command),
        "metavar": one.name if one.positional else _plain(one.takes),
        **named,
    }
    if one.positional:  # that one is missing is told with what it is
        return {**value, "nargs": "*" if one.repeated else "?"}
    if one.alone:
        return {**value, "nargs": "?", "const": one.alone}
    return {**value, "action": "append"} if one.repeated else value


def _value(one: Option, command: str, text: str) -> Any:
    words = one.words
    if text in words:
        return text
    kinds = [kind for kind in (str, Path, int, float) if kind in (one.item, *get_args(one.item))]
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    wanted = [*(["a whole number" if int in kinds else "a number"] if kinds else []), *words]
    listed = ", ".join(wanted[:-1]) + (" or " if wanted[:-1] else "") + wanted[-1]
    meant = did_you_mean(text, words, 0.5)
    raise UsageError(f"{one.name} is {text[:_SHOWN]!r}; it is {listed}.{meant}{_see(command)}")


def _unknown(options: list[Option], left: Sequence[str], command: str, commands: Commands) -> str:
    """What is wrong with the words that stand for nothing, and what was meant."""
    known = [one.name for one in options if not one.positional]
    name = next((word.partition("=")[0] for word in left if word.startswith("-")), "")
    if name:
        owners = [other for other, function in commands.items() if name in {each.name for each in options_of(function)}]
        of_others = f" It is one of {' and '.join(f'`layerscope {owner}`' for owner in owners)}." if owners else ""
        return f"{name[:_SHOWN]!r} is no option of `layerscope {command}`.{of_others or did_you_mean(name, known)}"
    word, places = left[0], [one for one in options if one.positional]
    takes = f"`layerscope {command}` takes " + (f"one {places[0].name}" if places else "options alone")
    of_dataset = not places and "--dataset" in known and Path(word).exists()
    hint = f" Did you mean --dataset {word[:_SHOWN]}?" if of_dataset else ""
    return f"{word[:_SHOWN]!r} is a word too many: {takes}.{hint}"


def _made(made: Callable[..., T], given: Mapping[str, Any]) -> T:
    """Calls with what is given; a parameter that is settings gets those made of what is theirs."""
    rest = dict(given)
    kinds: dict[str, Any] = {} if isinstance(made, type) else get_type_hints(made)
    for name, kind in kinds.items():
        if name != "return" and are_settings(kind):
            own = {one.target: rest.pop(one.target) for one in options_of(kind) if one.target in rest}
            rest[name] = kind(**own)
    return made(**rest)
