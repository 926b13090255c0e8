"""Questions whose rows cannot be read one by one, as those of CSV, Parquet and what is compressed.

Their texts are copied to a file without a name while they are checked, and read there again: memory holds no more of
them than of a file of JSON lines.
"""

import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Self, cast

import orjson

from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.files.blocks import ROWS, Blocks
from layerscope.questions.files.layouts import Rules, Understanding
from layerscope.questions.sources import NO_RULES, Question, metadata_of, question_of


class Copy:
    """A file without a name, read from anywhere in it; to another machine it travels with its content."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file, self._size = file or tempfile.TemporaryFile(), 0  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """A new one, of this content."""
        copy = cls()
        copy.write(content)
        copy.end()
        return copy

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return Copy.of, (os.pread(self.fileno(), os.fstat(self.fileno()).st_size, 0),)

    def fileno(self) -> int:
        """Its descriptor, which a process of this one's may be given instead of the content."""
        return self._file.fileno()

    def write(self, content: bytes) -> int:
        """Adds something, and says where it begins.

        Raises:
            LayerscopeError: there is no room.
        """
        begin = self._size
        with _room():
            self._file.write(content)
        self._size += len(content)
        return begin

    def end(self) -> None:
        """All is written; raises as `write` does."""
        with _room():
            self._file.flush()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LayerscopeError(
            f"The questions' texts cannot be copied: {error.strerror or error}.\n"
            f"The copy lies in {tempfile.gettempdir()} and is as large as they are. Make room there, or name another "
            "folder as TMPDIR; or write the questions as JSON lines, which are read where they lie."
        ) from error


class QuestionTable:
    """The questions of a table.

    Args:
        rows: where each stands, and what it holds.
        name: of all of them, for people.

    Raises:
        UsageError: what is wrong, with the row; up to ten of them.
        LayerscopeError: there is no room for the copy.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, object]],
        name: str,
        origin: dict[str, str],
        rules: Rules = NO_RULES,
    ) -> None:
        self.origin = origin
        understanding = Understanding(rules)
        self._blocks, self._copy = Blocks(), Copy()
        for line in _lines(rows, understanding, rules.metadata):
            self._blocks.add(self._copy.write(line), line)
        self._copy.end()
        self._blocks.end()
        self._labels = understanding.finish()
        if understanding.layout is None:
            raise UsageError(f"{name} holds no questions.")
        self.told, self.solutions = understanding.told(), understanding.solutions

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, example_id: int) -> Question:
        return next(self.read([example_id]))

    @property
    def content(self) -> str:
        digest = hashlib.sha256(self._blocks.content)
        digest.update(self._labels)
        return digest.hexdigest()

    def read(self, example_ids: Iterable[int]) -> Iterator[Question]:
        held, rows = -1, list[bytes]()
        for example_id in example_ids:
            block, place = divmod(example_id, ROWS)
            if block != held:
                held, rows = block, self._blocks.read(self._copy.fileno(), block)
            goal, solutions, metadata = orjson.loads(rows[place])
            yield question_of(example_id, goal, solutions, self._labels[example_id], metadata.encode())


def _lines(
    rows: Iterable[tuple[str, object]], understanding: Understanding, metadata: tuple[str, ...] | None
) -> Iterator[bytes]:
    """What is kept of every row: goal, solutions and other columns as JSON. What is wrong is told in the end."""
    for where, row in rows:
        found = understanding.take(row, where)
        if found is not None and understanding.layout is not None:
            others = metadata_of(understanding.layout, cast(dict[str, Any], row), metadata, where)
            yield orjson.dumps((*found, others.decode())) + b"\n"
