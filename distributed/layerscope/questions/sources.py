"""Questions with two solutions or more, as they lie in a file of JSON lines; those of other files are in `table.py`.

No more than a few questions are in memory: the source knows where its rows lie and reads them when asked.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.files.blocks import ROWS, Blocks
from layerscope.questions.files.labels import Labels
from layerscope.questions.files.layouts import Layout, Rules, Understanding
from layerscope.questions.telling import watched
from layerscope.strict_json import RepeatedKeyError, parse_object

MAX_LINE_BYTES = 16 << 20
NO_RULES = Rules()


@dataclass(frozen=True)
class Question:
    """A goal and two solutions, or more; `label` is 0 where `sol1` is right, 1 where `sol2` is, and so on."""

    example_id: int
    """The row's index in its split or file."""
    goal: str
    sol1: str
    sol2: str
    label: int
    more: tuple[str, ...] = ()
    """The third solution and those behind it."""
    metadata: bytes = b""
    """Other columns, as a JSON object; empty where none is asked for."""

    @property
    def solutions(self) -> tuple[str, ...]:
        """All of them, in the order of the file."""
        return self.sol1, self.sol2, *self.more

    def stripped(self) -> "Question":
        """The question with its solutions freed of surrounding white space."""
        more = tuple(map(str.strip, self.more))
        return replace(self, sol1=self.sol1.strip(), sol2=self.sol2.strip(), more=more)


def question_of(example_id: int, goal: str, solutions: Sequence[str], label: int, metadata: bytes) -> Question:
    """A question of these parts."""
    sol1, sol2, *more = solutions
    return Question(example_id, goal, sol1, sol2, label, tuple(more), metadata)


def metadata_of(layout: Layout, row: Mapping[str, Any], names: tuple[str, ...] | None, where: str) -> bytes:
    """Other columns as JSON; empty where none is asked for."""
    return b"" if names == () else orjson.dumps(_plain(layout.rest(row, names, where)))


def _plain(value: Any) -> Any:
    """A value as JSON has it: what JSON does not know as a text, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


class Source(Protocol):
    """Questions by their row's index, and where they come from."""

    origin: dict[str, str]
    """What the manifest says about the source."""
    told: str
    """Which columns were taken for what, for people; empty where they have layerscope's own names."""
    solutions: int
    """Of the question with the most."""

    @property
    def content(self) -> str:
        """The same for sources of the same questions; empty where none is known."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, example_id: int) -> Question: ...

    def read(self, example_ids: Iterable[int]) -> Iterator[Question]:
        """Several, in the order asked for: at less than one by one costs."""
        ...


class QuestionFile:
    """A JSON-lines file of questions, its labels inside or in a sibling `NAME-labels.lst`; checked whole when opened.

    A byte-order mark, CRLF line ends and blank lines are passed over; `example_id` counts the rows that are not blank.

    Raises:
        UsageError: what is wrong, with the line's number; up to ten lines of it.
    """

    def __init__(self, path: Path, origin: dict[str, str], rules: Rules = NO_RULES) -> None:
        self.origin = origin
        self._path, self._metadata = path, rules.metadata
        self._blocks = Blocks()  # because a row is read again when its turn comes
        rows = Understanding(rules, lambda: _read_labels(labels_path(path), path))
        with _readable(path), path.open("rb") as stream:
            for number, (offset, line) in enumerate(watched(_lines(stream, path), path), start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = parse_line(line, where)
                except UsageError as error:
                    rows.problem(error)
                    continue
                self._blocks.add(offset, line)
                rows.take(row, where)
        self._blocks.end()
        self._labels = rows.finish()
        if rows.layout is None:
            raise UsageError(f"{path} holds no questions.")
        self._layout, self.solutions = rows.layout, rows.solutions
        self.told = rows.told()
        if len(self._labels) != len(self):
            raise UsageError(
                f"{labels_path(path)} has {len(self._labels)} labels for the {len(self)} questions of {path.name}; "
                "it needs one line a question."
            )

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, example_id: int) -> Question:
        return next(self.read([example_id]))

    @property
    def content(self) -> str:
        digest = hashlib.sha256(self._blocks.content)
        digest.update(self._labels)
        digest.update(repr((self._layout, self._metadata)).encode())
        return digest.hexdigest()

    def read(self, example_ids: Iterable[int]) -> Iterator[Question]:
        with _readable(self._path), self._path.open("rb") as stream:
            held, rows = -1, list[bytes]()
            for example_id in example_ids:
                block, place = divmod(example_id, ROWS)
                if block != held:
                    held, rows = block, self._blocks.read(stream.fileno(), block)
                if not rows:
                    raise self._changed(block * ROWS)
                yield self._parsed(example_id, rows[place])

    def _changed(self, first: int) -> LayerscopeError:
        where = f"{self._path}, one of the questions {first} to {min(first + ROWS, len(self)) - 1}"
        return LayerscopeError(f"{where}, was changed while it was in use. Restore the file and run again.")

    def _parsed(self, example_id: int, line: bytes) -> Question:
        row = orjson.loads(line)  # which was looked at when the file was opened, and is the same
        metadata = metadata_of(self._layout, row, self._metadata, "")
        return question_of(example_id, *self._layout.texts_again(row), self._labels[example_id], metadata)


def parse_line(line: bytes, where: str) -> object:
    """The JSON of a line.

    Raises:
        UsageError: it is none, or has a key twice.
    """
    try:
        return parse_object(line)
    except RepeatedKeyError as error:
        raise UsageError(f"{where}: {error}, and nobody can say which value counts. Keep one.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {str(error)[:200]}.\nEvery line must be one JSON object.") from error


def labels_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-labels.lst")


def _read_labels(beside: Path, path: Path) -> "array[int]":
    if not beside.is_file():
        raise UsageError(
            f"{path} has no 'label' in its first question, and there is no {beside.name} beside it.\n"
            "Add a label (0 or 1) to every line, or put that file there, one label a line."
        )
    labels = Labels()
    with _readable(beside), beside.open("rb") as stream:
        for number, (_, line) in enumerate(_lines(stream, beside), start=1):
            if line.strip():
                labels.take(line.decode(errors="replace").strip(), f"{beside}, line {number}")
    return labels.settle("auto", own=True)


def _lines(stream: Any, path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line with its offset in bytes, the byte-order mark of the first left out."""
    offset = 0
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise UsageError(
                f"{path} has a line of over {MAX_LINE_BYTES >> 20} MiB at byte {offset}: not a file of questions."
            )
        mark = 3 if offset == 0 and line.startswith(b"\xef\xbb\xbf") else 0
        yield offset + mark, line[mark:]
        offset += len(line)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
