"""Writing the records of a run in other formats: as tables in Parquet or CSV, or as one JSON array.

Every file is written as a stream and takes its place as a whole.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
from pyarrow import csv, parquet

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import replacing
from layerscope.formatting import size_text
from layerscope.records.journal import write_array
from layerscope.records.manifest import manifest_path
from layerscope.tables.rows import (
    FEATURE_ROWS,
    FEATURES,
    QUESTION_ROWS,
    QUESTIONS,
    RowGroups,
    feature_rows,
    question_row,
    read_records,
)

_ARRAY = ".json"
_TABLES = (".parquet", ".csv")


def export(path: Path, target: Path, overwrite: bool) -> str:
    """Writes the records of an output file, finished or growing, in the format that the target's suffix names.

    `x.parquet` and `x.csv` get the table of features, and `x.questions.parquet` or `x.questions.csv` beside them the
    table of questions; `x.json` gets the array of records.

    Returns:
        What was written, for people.

    Raises:
        UsageError: there is no such file, or the target cannot be meant.
        LayerscopeError: a line is not a record, or the disk is full or fails; what stood there before stands there yet.
    """
    targets = [target]
    if target.suffix in _TABLES:
        targets.append(target.with_suffix(f".questions{target.suffix}"))
    elif target.suffix != _ARRAY:
        raise UsageError(f"--to {target}: the suffix says the format; take {', '.join(_TABLES)} or {_ARRAY}.")
    _check(path, targets, overwrite)
    if target.suffix == _ARRAY:
        write_array(path, target, read_records(path, _line_of_record))
    else:
        _write_tables(path, *targets)
    return "\n".join(f"{target}  {size_text(target.stat().st_size)}" for target in targets)


def _check(path: Path, targets: Sequence[Path], overwrite: bool) -> None:
    for target in targets:
        if not target.parent.is_dir():
            raise UsageError(f"--to: there is no folder {target.parent}. Make it, or name another file.")
        if target.is_dir():
            raise UsageError(f"--to: {target} is a folder. Name a file.")
        if target.resolve() in (path.resolve(), manifest_path(path.resolve())):
            raise UsageError(f"--to: {target} is what is to be exported. Name another file.")
        if target.exists() and not overwrite:
            raise UsageError(f"--to: {target} is there already. Name another file, or replace it with --overwrite.")


def _line_of_record(line: bytes) -> bytes:
    orjson.loads(line)["example_id"]
    return line


def _write_tables(path: Path, features_target: Path, questions_target: Path) -> None:
    writer = _parquet_writer if features_target.suffix == ".parquet" else csv.CSVWriter
    try:
        with (  # left from the last to the first: both files are whole before either takes its place
            replacing(questions_target) as questions_file,
            replacing(features_target) as features_file,
            _writing(questions_file, writer, QUESTIONS, QUESTION_ROWS) as questions,
            _writing(features_file, writer, FEATURES, FEATURE_ROWS) as features,
        ):
            for of_question, of_features in read_records(path, _rows):
                questions.add(of_question)
                features.add(of_features)
    except OSError as error:
        raise LayerscopeError(
            f"{features_target} cannot be written: {error.strerror or error}. What was there before is as it was.\n"
            "Make room, or name a file elsewhere, and run the same command again."
        ) from error


def _rows(line: bytes) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    record = orjson.loads(line)
    return question_row(record), feature_rows(record)


def _parquet_writer(stream: BinaryIO, schema: pa.Schema) -> parquet.ParquetWriter:
    # Numbers that hardly repeat: split by bytes they take two thirds of what a dictionary makes of them.
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    others = [name for name in schema.names if name not in floats]
    return parquet.ParquetWriter(
        stream, schema, compression="zstd", use_dictionary=others, use_byte_stream_split=floats
    )


@contextmanager
def _writing(file: Path, writer: Callable[..., Any], schema: pa.Schema, rows: int) -> Iterator[RowGroups]:
    """Takes rows for a file, which are on the disk in the end."""
    with file.open("wb") as stream:
        with writer(stream, schema) as tables, RowGroups(tables.write_table, rows) as groups:
            yield groups
        stream.flush()
        os.fsync(stream.fileno())
