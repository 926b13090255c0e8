"""The words of a command line as a command's parameters, or what is wrong with one of them and what was meant."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from layerscope.config.help import explanations
from layerscope.config.options import Option, are_settings, options_of
from layerscope.errors import UsageError

T = TypeVar("T")
Commands = Mapping[str, Callable[..., Any]]
_SHOWN = 80  # characters of a word in a message


def did_you_mean(word: str, known: Sequence[str], nearness: float = 0.6) -> str:
    """` Did you mean final?`; empty where nothing is near."""
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=nearness)
    begun = [each for each in known if len(word) > 1 and each.startswith(word.lower())]
    meant = begun if len(begun) == 1 else near
    return f" Did you mean {meant[0]}?" if meant else ""


def call(function: Callable[..., T], words: Sequence[str], command: str, commands: Commands) -> T:
    """Calls a command's function, or makes settings, with what the words of a command line say.

    Args:
        command: whose words they are.
        commands: all there are, by name: whose an option is that is none of this one's.

    Raises:
        UsageError: a word is no option, has no value or one that cannot be, or one is missing.
    """
    see = f"\n`layerscope {command} --help` says what there is."
    options = options_of(function)
    given: dict[str, Any] = {}
    left, places_alone = list(words), False
    while left:
        word = left.pop(0)
        if word == "--" and not places_alone:
            places_alone = True
        elif places_alone or word == "-" or not word.startswith("-"):
            one = _place(options, given, word, f"`layerscope {command}`", see)
            _take(given, one, _value(one, word, see))
        else:
            one, text = _option(options, word, left, command, commands, see)
            _take(given, one, True if one.is_flag else _value(one, text, see))
    for one in options:
        if one.default is MISSING and one.target not in given:
            raise UsageError(f"{one.name} is missing. {explanations(function)[one.target]}{see}")
    return _made(function, given)


def _take(given: dict[str, Any], one: Option, value: Any) -> None:
    given[one.target] = (*given.get(one.target, ()), value) if one.repeated else value


def _made(made: Callable[..., T], given: Mapping[str, Any]) -> T:
    """Calls with what is given; a parameter that is settings gets those made of what is theirs."""
    rest = dict(given)
    kinds: dict[str, Any] = {} if isinstance(made, type) else get_type_hints(made)
    for name, kind in kinds.items():
        if name != "return" and are_settings(kind):
            own = {one.target: rest.pop(one.target) for one in options_of(kind) if one.target in rest}
            rest[name] = kind(**own)
    return made(**rest)


def _place(options: list[Option], given: Mapping[str, Any], word: str, command: str, see: str) -> Option:
    """What a word that is no option stands for."""
    places = [one for one in options if one.positional]
    for one in places:
        if one.repeated or one.target not in given:
            return one
    takes = f"{command} takes one {places[0].name}" if places else f"{command} takes options alone"
    of_dataset = not places and "--dataset" in {one.name for one in options} and Path(word).exists()
    hint = f" Did you mean --dataset {word[:_SHOWN]}?" if of_dataset else ""
    raise UsageError(f"{word[:_SHOWN]!r} is a word too many: {takes}.{hint}{see}")


def _option(
    options: list[Option], word: str, left: list[str], command: str, commands: Commands, see: str
) -> tuple[Option, str]:
    """The option that a word names, and its value, which may be the next word and then is none of those left."""
    known = {one.name: one for one in options if not one.positional}
    name, equals, text = word.partition("=")
    one = known.get(name.replace("_", "-"))
    if one is None:
        owners = [other for other, function in commands.items() if name in {each.name for each in options_of(function)}]
        of_others = f" It is one of {' and '.join(f'`layerscope {owner}`' for owner in owners)}." if owners else ""
        hint = of_others or did_you_mean(name.replace("_", "-"), list(known))
        raise UsageError(f"{name[:_SHOWN]!r} is no option of `layerscope {command}`.{hint}{see}")
    if one.is_flag and equals:
        raise UsageError(f"{one.name} takes no value, and {text[:_SHOWN]!r} is one.{see}")
    if not one.is_flag and not equals:
        if not left or left[0].partition("=")[0].replace("_", "-") in known:
            raise UsageError(f"{one.name} lacks its value, {one.takes}.{see}")
        text = left.pop(0)
    return one, text


def _value(one: Option, text: str, see: str) -> Any:
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
    raise UsageError(f"{one.name} is {text[:_SHOWN]!r}; it is {listed}.{did_you_mean(text, words, 0.5)}{see}")
