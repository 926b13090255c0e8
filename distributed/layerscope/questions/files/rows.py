"""The rows of question files in the formats that people have, one after the other, each with where it stands."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from layerscope.errors import UsageError
from layerscope.formatting import listed, visible
from layerscope.questions.sources import MAX_LINE_BYTES, parse_line
from layerscope.questions.telling import watched

Rows = Iterator[tuple[str, object]]
UNPACKED = (".gz", ".zst")
"""Endings of compressed text files that are read as they are."""
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings that name a format; everything else is JSON lines."""
_MAX_ARRAY_BYTES = 1 << 30
_OF_SPREADSHEETS = (
    "\nIn Excel that is File, Save As, CSV UTF-8; in LibreOffice File, Save As, Text CSV, and the character set "
    "Unicode (UTF-8)."
)


def format_of(path: Path) -> tuple[str, bool]:
    """A file's format by its name, and whether it is compressed."""
    packed = path.suffix.lower() in UNPACKED
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    return suffix if suffix in FORMATS else ".jsonl", packed


def is_json_array(path: Path) -> bool:
    """Whether a plain file holds one JSON array instead of a JSON object a line."""
    with _readable(path), path.open("rb") as stream:
        return begins_array(stream)


def begins_array(stream: IO[bytes]) -> bool:
    """Whether the first thing in a stream, behind a byte-order mark and white space, is a bracket; reads up to it."""
    content = stream.read(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip()
    while not content and (more := stream.read(1 << 12)):
        content = more.lstrip()
    return content[:1] == b"["


def rows_of(path: Path) -> Rows:
    """The rows of a file, by its format.

    Raises:
        UsageError: it cannot be read, or is not what its name says.
    """
    kind, packed = format_of(path)
    with _readable(path):
        if kind == ".parquet":
            yield from watched(_parquet(path), path, "row")
            return
        if kind in (".csv", ".tsv"):
            yield from _table(path, packed, "\t" if kind == ".tsv" else ",")
        elif kind == ".json" and _holds_array(path, packed):
            yield from _array(path, packed)
        else:
            yield from _lines(path, packed)


def _holds_array(path: Path, packed: bool) -> bool:
    with _unpacked(path, packed) as stream:
        return begins_array(stream)


def saved_rows(folder: Path, split: str, usual_split: str) -> Rows:
    """The rows of a folder that `Dataset.save_to_disk` made.

    Raises:
        UsageError: it is none, or has no such split.
    """
    import datasets  # a second to import, and needed only here

    try:
        saved = datasets.load_from_disk(str(folder))
    except PermissionError as error:
        raise UsageError(f"{error.filename or folder} cannot be read: {error.strerror}.") from error
    # It takes the folder's JSON as it is, so that one of another shape ends in whatever Python says to it.
    except (OSError, ValueError, TypeError, AttributeError, LookupError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"--dataset {visible(str(folder))} is a folder, and none that Dataset.save_to_disk made. "
            "Name the file of questions in it."
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UsageError(f"{visible(str(folder))} has no split {split}: --split {listed(saved, 20, ' or ')}.")
        saved = saved[split]
    elif split not in (usual_split, str(saved.split)):
        raise UsageError(
            f"{visible(str(folder))} holds one split, {saved.split or 'without a name'}. Leave out --split."
        )
    with _readable(folder):
        rows = saved.with_format(None)  # numpy's, say, is but how it was looked at last
        for number, row in enumerate(watched(rows, folder, "row")):
            yield f"{folder}, row {number}", row


def _lines(path: Path, packed: bool) -> Rows:
    with _unpacked(path, packed) as stream:
        for number, line in enumerate(watched(_text_lines(stream, path), path), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, parse_line(line.encode(), where)


def _text_lines(stream: IO[bytes], path: Path) -> Iterator[str]:
    """The lines of a text, none of them without bounds: a few kilobytes that are compressed may be gigabytes."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        while line := text.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES:
                raise UsageError(
                    f"{path} has a line of over {MAX_LINE_BYTES >> 20} Mi characters: not a file of questions."
                )
            yield line


def _array(path: Path, packed: bool) -> Rows:
    with _unpacked(path, packed) as stream:
        content = stream.read(_MAX_ARRAY_BYTES + 1)
    if len(content) > _MAX_ARRAY_BYTES:
        raise UsageError(
            f"{path} is one JSON array of over {_MAX_ARRAY_BYTES >> 20} MiB, which must be held whole.\n"
            "Write it as JSON lines, a question a line."
        )
    array = parse_line(content.removeprefix(b"\xef\xbb\xbf"), str(path))
    assert isinstance(array, list)
    for number, row in enumerate(array):
        yield f"{path}, question {number}", row


def _table(path: Path, packed: bool, delimiter: str) -> Rows:
    csv.field_size_limit(MAX_LINE_BYTES)
    with _unpacked(path, packed) as stream:
        first = next(_text_lines(stream, path), "").strip()
    told = re.fullmatch(r"sep=(.)", first)  # as some tell a spreadsheet how to read the rest
    if told:
        delimiter = told[1]
    elif delimiter not in first and ";" in first:  # as spreadsheets write it where a comma stands in numbers
        delimiter = ";"
    with _unpacked(path, packed) as stream:
        lines = watched(_text_lines(stream, path), path)
        above = len(list(islice(lines, 1))) if told else 0
        yield from _cells(csv.reader(lines, delimiter=delimiter, strict=True), path, delimiter, above)


def _cells(lines: Any, path: Path, delimiter: str, above: int) -> Rows:
    """The rows below the names; as blank lines are none, nor are rows and columns of empty cells that nobody named.

    Args:
        lines: the reader of `csv`, which counts its lines.
        above: how many lines stand above the names.
    """
    names: list[str] = next(lines, [])
    _check_columns([name for name in names if name], path)
    for cells in lines:
        if not any(cells):
            continue
        where = f"{path}, line {lines.line_num + above}"
        if len(cells) != len(names):
            some = "fewer" if len(cells) < len(names) else "more"
            raise UsageError(
                f"{where} has {some} cells than the first line has columns. Quote texts with {delimiter!r}."
            )
        row = dict(zip(names, cells, strict=True))
        if unnamed := next((cell for name, cell in zip(names, cells, strict=True) if cell and not name), ""):
            raise UsageError(
                f"{where} has {visible(unnamed)[:80]!r} in a column without a name. Name it in the first line."
            )
        row.pop("", None)
        yield where, row


def _parquet(path: Path) -> Rows:
    from pyarrow.parquet import ParquetFile

    number = 0
    with ParquetFile(path) as file:
        _check_columns(file.schema_arrow.names, path)
        for batch in file.iter_batches(1000):
            for row in batch.to_pylist():
                yield f"{path}, row {number}", row
                number += 1


def _check_columns(names: Sequence[str], path: Path) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{path} has the column {visible(repeated[0])[:80]} twice, and nobody can say which counts.")


@contextmanager
def _unpacked(path: Path, packed: bool) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked as they are asked for if need be."""
    if not packed:
        with path.open("rb") as stream:
            yield stream
        return
    import pyarrow as pa

    with pa.input_stream(str(path), compression="gzip" if path.suffix.lower() == ".gz" else "zstd") as unpacked:
        yield io.BufferedReader(unpacked)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UsageError(f"{path} is no table that can be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8, and run again."
            f"{_OF_SPREADSHEETS if format_of(path)[0] in ('.csv', '.tsv') else ''}"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, OverflowError) as error:  # what Arrow raises for a broken file, and for a date beyond Python's
        raise UsageError(f"{path} cannot be read: {str(error)[:200].rstrip('.')}.") from error
