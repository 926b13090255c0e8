"""What a command's parameters are on the command line: options, files and flags, each with its group in the help."""

from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter, signature
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Group(str):
    """The heading that an option stands under."""

    __slots__ = ()


HELP = ("-h", "--help")
_ARGUMENTS = Group("arguments")
Common = Annotated[T, Group("most used")]
OfModel = Annotated[T, Group("which model, SAEs and layers")]
OfQuestions = Annotated[T, Group("which questions")]
OfNumbers = Annotated[T, Group("what is computed")]
OfOutput = Annotated[T, Group("where the records go")]
OfPlaces = Annotated[T, Group("where things are now")]
OfWork = Annotated[T, Group("on what, and how the work is spread")]


@dataclass(frozen=True)
class Shown:
    """What the help says of a parameter where its name, type and default do not."""

    name: str = ""
    takes: str = ""
    default: str = ""
    alone: str = ""
    """The value that it has where none follows it."""
    positional: bool = False


@dataclass(frozen=True)
class Option:
    """One option of a command, or what stands there without one."""

    name: str
    """As it is written: `--top-k`; of what is positional the word in the usage, `FILE`."""
    target: str
    """The parameter, or the field."""
    kind: Any
    """Its type, without what is annotated and without None."""
    default: Any
    """`MISSING` where it must be given."""
    default_told: str
    group: Group
    positional: bool
    takes: str
    """What stands for the value in the help; empty for a flag."""
    alone: str = ""
    """What it is where no value follows; empty where one must."""

    @property
    def is_flag(self) -> bool:
        return self.kind is bool

    @property
    def item(self) -> Any:
        """The type of one value, of an option that may be there several times too."""
        return get_args(self.kind)[0] if self.repeated else self.kind

    @property
    def repeated(self) -> bool:
        return get_origin(self.kind) is tuple

    @property
    def words(self) -> list[str]:
        """The words that it knows, beside which it may take numbers."""
        return words_of(self.item)


def option(name: str) -> str:
    """The command line's spelling of a field's name."""
    return "--" + name.replace("_", "-")


def words_of(kind: Any) -> list[str]:
    """The words that a type names."""
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    return [word for part in _parts(kind) for word in words_of(part)]


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else ()


def are_settings(kind: Any) -> bool:
    """It is a class of settings, each of whose fields is an option."""
    return is_dataclass(kind)


def options_of(made: Any) -> list[Option]:
    """The options of a command's function, or of settings; where a parameter is itself settings, those in its place."""
    hints = get_type_hints(made, include_extras=True)
    found: list[Option] = []
    if are_settings(made):
        return [_option(field.name, hints[field.name], field.default) for field in fields(made)]
    for name, parameter in signature(made).parameters.items():
        default = MISSING if parameter.default is Parameter.empty else parameter.default
        kind: Any = hints[name]
        found += options_of(kind) if are_settings(kind) else [_option(name, kind, default)]
    return found


def by_groups(options: list[Option]) -> dict[Group, list[Option]]:
    """What is none by its name first, then the most used."""
    groups: dict[Group, list[Option]] = {_ARGUMENTS: [], get_args(Common)[1]: []}
    for one in options:
        groups.setdefault(one.group, []).append(one)
    return {group: those for group, those in groups.items() if those}


def _option(name: str, hint: Any, default: Any) -> Option:
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    shown = next((note for note in notes if isinstance(note, Shown)), Shown())
    group = next((note for note in notes if isinstance(note, Group)), Group("options"))
    if type(None) in _parts(kind):
        (kind,) = (part for part in _parts(kind) if part is not type(None))
    written = shown.name or name
    return Option(
        name=shown.takes or written.upper() if shown.positional else option(written),
        target=name,
        kind=kind,
        default=default,
        default_told=shown.default or _told(default),
        group=_ARGUMENTS if shown.positional else group,
        positional=shown.positional,
        takes="" if kind is bool else shown.takes or _takes(kind),
        alone=shown.alone,
    )


def _takes(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return _takes(get_args(kind)[0])
    if parts := _parts(kind):
        return "|".join(map(_takes, parts))
    return {int: "N", float: "X"}.get(kind) or "|".join(words_of(kind)) or "TEXT"


def _told(default: Any) -> str:
    if default is MISSING:
        return "must be given"
    if default is False or default == "" or default is None:
        return ""
    return "may be repeated" if default == () else f"default: {default}"
