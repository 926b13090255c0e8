"""The rows of question files in the formats that people have, one after the other, each with where it stands."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerscope.errors import UsageError
from layerscope.formatting import visible
from layerscope.questions.sources import MAX_LINE_BYTES, parse_line

Rows = Iterator[tuple[str, object]]
UNPACKED = (".gz", ".zst")
"""Endings of compressed text files that are read as they are."""
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings that name a format; everything else is JSON lines."""


def format_of(path: Path) -> tuple[str, bool]:
    """A file's format by its name, and whether it is compressed."""
    packed = path.suffix.lower() in UNPACKED
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    return suffix if suffix in FORMATS else ".jsonl", packed


def is_json_array(path: Path) -> bool:
    """Whether a plain file holds one JSON array instead of a JSON object a line."""
    with path.open("rb") as stream:
        return stream.read(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def rows_of(path: Path) -> Rows:
    """The rows of a file, by its format.

    Raises:
        UsageError: it cannot be read, or is not what its name says.
    """
    kind, packed = format_of(path)
    with _readable(path):
        if kind == ".parquet":
            yield from _parquet(path)
            return
        with _text(path, packed) as stream:
            if kind in (".csv", ".tsv"):
                yield from _table(stream, path, "\t" if kind == ".tsv" else ",")
            elif kind == ".json" and stream.buffer.peek(1 << 12).lstrip()[:1] == b"[":
                yield from _array(stream, path)
            else:
                yield from _lines(stream, path)


def saved_rows(folder: Path, split: str) -> Rows:
    """The rows of a folder that `Dataset.save_to_disk` made.

    Raises:
        UsageError: it is none, or has no such split.
    """
    import datasets  # a second to import, and needed only here

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"--dataset {visible(str(folder))} is a folder, and none that Dataset.save_to_disk made. "
            "Name the file of questions in it."
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UsageError(f"{visible(str(folder))} has no split {split}: --split {' or '.join(saved)}.")
        saved = saved[split]
    for number, row in enumerate(saved):
        yield f"{folder}, row {number}", row


def _lines(stream: io.TextIOWrapper, path: Path) -> Rows:
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), ""), start=1):
        if len(line) == MAX_LINE_BYTES:
            raise UsageError(
                f"{path} has a line of over {MAX_LINE_BYTES >> 20} Mi characters: not a file of questions."
            )
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parse_line(line.encode(), where)


def _array(stream: io.TextIOWrapper, path: Path) -> Rows:
    array = parse_line(stream.read().encode(), str(path))
    assert isinstance(array, list)
    for number, row in enumerate(array):
        yield f"{path}, question {number}", row


def _table(stream: io.TextIOWrapper, path: Path, delimiter: str) -> Rows:
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.DictReader(stream, delimiter=delimiter, strict=True, restkey="", restval=None)
    names = rows.fieldnames or []
    if len(names) == 1 and ";" in names[0]:  # as spreadsheets write it where a comma stands in numbers
        stream.seek(0)
        rows = csv.DictReader(stream, delimiter=";", strict=True, restkey="", restval=None)
        names = rows.fieldnames or []
    if repeated := [name for name in names if list(names).count(name) > 1]:
        raise UsageError(f"{path} has the column {visible(repeated[0])} twice, and nobody can say which counts.")
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if ("" in row and "" not in names) or None in row.values():
            some = "fewer" if None in row.values() else "more"
            raise UsageError(
                f"{where} has {some} cells than the first line has columns. Quote texts with {delimiter!r}."
            )
        yield where, row


def _parquet(path: Path) -> Rows:
    from pyarrow.parquet import ParquetFile

    number = 0
    with ParquetFile(path) as file:
        for batch in file.iter_batches(1000):
            for row in batch.to_pylist():
                yield f"{path}, row {number}", row
                number += 1


@contextmanager
def _text(path: Path, packed: bool) -> Iterator[Any]:
    """The text of a file, unpacked if need be."""
    if not packed:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
        return
    import pyarrow as pa

    with pa.input_stream(str(path), compression="gzip" if path.suffix.lower() == ".gz" else "zstd") as unpacked:
        # Whole, because a table may have to be begun again, and Arrow's stream cannot go back.
        yield io.TextIOWrapper(io.BufferedReader(io.BytesIO(unpacked.read())), encoding="utf-8-sig", newline="")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UsageError(f"{path} is no table that can be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8, and run again."
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # what Arrow raises for a broken file
        raise UsageError(f"{path} cannot be read: {str(error)[:200]}.") from error
