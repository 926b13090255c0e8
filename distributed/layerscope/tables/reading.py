"""The tables of a file, read whole for notebooks or group of rows by group for whoever writes them.

Reads an output file, finished or growing, once and as a stream. Writes nothing; that is `export.py`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from numbers import Integral
from operator import index
from os import PathLike
from pathlib import Path

import pyarrow as pa

from layerscope.errors import UsageError
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.line.record import Record, Unscored
from layerscope.records.progress import shown
from layerscope.records.reading.run import RecordsFile
from layerscope.records.reading.shards import open_records, user_paths
from layerscope.tables.attribution_rows import attribution_rows, term_rows
from layerscope.tables.columns import ATTRIBUTION_TERMS, ATTRIBUTIONS, features_schema, questions_schema
from layerscope.tables.exported import SUFFIX, read_exported
from layerscope.tables.rows import feature_rows, question_row

# Rows of a group: what is held before it is written, and a row group of a Parquet file.
FEATURE_ROWS = 1 << 18
LIST_ROWS, QUESTION_ROWS = 1 << 14, 1 << 10
GROUP_BYTES = 32 << 20

Files = str | PathLike[str] | Sequence[str | PathLike[str]] | RecordsFile


def read_features(
    files: Files, layers: Collection[int] | None = None, top_k: int | None = None, dictionary: str = FIRST
) -> pa.Table:
    """The features of every scored question, about 22 bytes a row, in the order of the file.

    Of a file with several readings those of all, one after the other, with three columns more: `reading` tells which.

    Args:
        files: the output file of a run (`.jsonl`), finished or growing, or those of the shards of one job; or what
            `layerscope export` made of them (`.parquet`).
        layers: only these; None for all.
        top_k: only so many of the strongest of each solution and layer; None for all that are listed.
        dictionary: whose features, of a file with several.

    Raises:
        UsageError: there is no such file, or it has not these layers or this dictionary.
        LayerscopeError: a line is not a record.
    """
    wanted = _wanted(layers, top_k)
    if exported := _exported(files):
        if dictionary != FIRST:
            raise UsageError(f"dictionary={dictionary!r}: a Parquet file has one dictionary's features.\nLeave it out.")
        return read_exported(exported, wanted, top_k)
    file = _opened(files, dictionary)
    schema = features_schema(file)
    rows = (feature_rows(record, wanted, top_k, file.readings, schema) for _, record in read_records(file))
    return _gathered(rows, schema)


def read_questions(files: Files) -> pa.Table:
    """A row for every question, in the order of the file: the record without its features.

    With the columns of `OF_OTHERS` and `OF_METADATA` where the file has them.

    Args:
        files: the output file of a run (`.jsonl`), finished or growing, or those of the shards of one job.

    Raises:
        UsageError: there is no such file.
        LayerscopeError: a line is not a record.
    """
    file = _opened(files)
    schema = questions_schema(file)
    return _gathered((question_row(record, schema) for _, record in read_records(file)), schema)


def read_attributions(files: Files, layers: Collection[int] | None = None, top_k: int | None = None) -> pa.Table:
    """The attributions of every scored question, about 26 bytes a row, in the order of the file.

    Args:
        files: the output file of a run (`.jsonl`) with attributions, or those of the shards of one job.
        layers: only these; None for all.
        top_k: only so many of the largest of each group of tokens and layer; None for all that are listed.

    Raises:
        UsageError: there is no such file, it has no attributions, or not these layers.
        LayerscopeError: a line is not a record.
    """
    wanted, file = _wanted(layers, top_k), _with_attributions(files)
    return _gathered((attribution_rows(record, wanted, top_k) for _, record in read_records(file)), ATTRIBUTIONS)


def read_attribution_terms(files: Files, layers: Collection[int] | None = None) -> pa.Table:
    """What the attributions of each question, layer and group of tokens add up to, and what there is besides them.

    Args:
        files: the output file of a run (`.jsonl`) with attributions, or those of the shards of one job.
        layers: only these; None for all.

    Raises:
        UsageError: there is no such file, it has no attributions, or not these layers.
        LayerscopeError: a line is not a record.
    """
    wanted, file = _wanted(layers, None), _with_attributions(files)
    return _gathered((term_rows(record, wanted) for _, record in read_records(file)), ATTRIBUTION_TERMS)


def _wanted(layers: Collection[int] | None, top_k: int | None) -> frozenset[int] | None:
    if top_k is not None and not (isinstance(top_k, Integral) and top_k >= 1):
        raise UsageError(f"top_k is {top_k!r}; it is the number of features to read of each list, from 1.")
    try:
        return None if layers is None else frozenset(map(index, layers))
    except TypeError as error:
        raise UsageError(f"layers is {repr(layers)[:80]}; name them in a list, such as [0, 8].") from error


def _opened(files: Files, dictionary: str = FIRST) -> RecordsFile:
    if isinstance(files, RecordsFile) and dictionary == FIRST:
        return files
    if isinstance(files, RecordsFile):
        files = [part.path for part in files.parts]
    return open_records(user_paths(files), dictionary)


def _exported(files: Files) -> list[Path]:
    """The files, where all are Parquet."""
    if isinstance(files, RecordsFile):
        return []
    paths = user_paths(files)
    return paths if all(path.suffix == SUFFIX for path in paths) else []


def _with_attributions(files: Files) -> RecordsFile:
    file = _opened(files)
    if not file.attributed:
        raise UsageError(
            f"{file.path} has no attributions: it was run without --attribution.\n"
            "Run again with --attribution gradient and another --output-file."
        )
    return file


def read_records(file: RecordsFile) -> Iterator[tuple[bytes, Record | Unscored]]:
    """Every line of a file and its record, one after the other; shows how far it is.

    Raises:
        LayerscopeError: a line is not a record, or not the one that was written there, or the disk fails.
    """
    return shown(file.records(), file)


class RowGroups:
    """Joins the rows of many records into tables of about equally many rows; closed by leaving its `with` block."""

    def __init__(self, take: Callable[[pa.Table], object], rows: int) -> None:
        """
        Args:
            take: gets every table.
            rows: how many a table has, unless they are `GROUP_BYTES`; at most those of one record more.
        """
        self._take, self._limit = take, rows
        self._batches = list[pa.RecordBatch]()
        self._rows = self._bytes = 0

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(self, exception: object, *_: object) -> None:
        if exception is None:
            self._flush()

    def add(self, rows: pa.RecordBatch) -> None:
        self._batches.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= self._limit or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._take(pa.Table.from_batches(self._batches).combine_chunks())
        self._batches, self._rows, self._bytes = [], 0, 0


def _gathered(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    tables = list[pa.Table]()
    with RowGroups(tables.append, FEATURE_ROWS) as groups:
        for batch in batches:
            groups.add(batch)
    return pa.concat_tables([schema.empty_table(), *tables])
