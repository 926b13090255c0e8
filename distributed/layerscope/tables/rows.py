"""The records of a run as tables: one with a row for every feature listed, one with a row for every question.

Reads an output file, finished or growing, once and as a stream. Writes nothing; that is `export.py`.
Together the two tables hold all that the records hold, but for which layers have no active feature anywhere, and the
solutions' tokens.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from msgspec import UNSET
from numpy.typing import NDArray

from layerscope.errors import UsageError
from layerscope.records.progress import shown
from layerscope.records.readings import Feature, LastWordReading, PlacedFeature, ReadingLists
from layerscope.records.record import SOLUTIONS, Record, SolutionDetails, Unscored
from layerscope.records.run import RecordsFile

Ints = NDArray[np.int64]
_SIDES = [*SOLUTIONS, "other"]

FEATURES = pa.schema(
    {
        "example_id": pa.int32(),
        "solution": pa.dictionary(pa.int8(), pa.string()),  # positive, negative
        "layer": pa.int16(),
        "rank": pa.int32(),  # from 1, the strongest
        "feature_id": pa.int32(),
        "activation": pa.float32(),  # exactly the record's
        "active_feature_count": pa.int32(),  # of this solution and layer; above the highest rank, the list was cut
        "chosen": pa.bool_(),  # the model prefers this solution
        "correct": pa.bool_(),  # the model prefers the right solution: the record's model_is_correct
    }
)

OF_READINGS = pa.schema(
    {
        "reading": pa.dictionary(pa.int8(), pa.string()),  # final, last-word, max, prompt
        "token": pa.int32(),  # of the solution's, where the feature is active (max: strongest); null for prompt
        "token_count": pa.int32(),  # of max, at how many of the solution's tokens it is active
    }
)
"""Further columns of features, where a file has more than the reading `final`."""

QUESTIONS = pa.schema(
    {
        "example_id": pa.int32(),
        "question": pa.string(),
        "label": pa.int8(),
        "model_is_correct": pa.bool_(),  # by log-likelihood (acc)
        "model_is_correct_per_character": pa.bool_(),  # by log-likelihood per character (acc_norm)
        "margin": pa.float32(),  # log-likelihood(positive) - log-likelihood(negative)
        "positive_text": pa.string(),
        "positive_log_likelihood": pa.float32(),
        "positive_token_count": pa.int32(),
        "positive_final_token": pa.string(),
        "negative_text": pa.string(),
        "negative_log_likelihood": pa.float32(),
        "negative_token_count": pa.int32(),
        "negative_final_token": pa.string(),
        "error": pa.string(),  # why the question could not be scored; all else but example_id is null then
    }
)

OF_OTHERS = pa.schema(
    {
        "solutions": pa.int16(),  # how many the question has
        "margin_to_mean": pa.float32(),  # log-likelihood(positive) - the mean of all wrong solutions' log-likelihoods
        "others": pa.string(),  # JSON: index, text, log_likelihood and token_count of the wrong ones but the strongest
    }
)
"""Further columns of questions, where any has more than two solutions."""

OF_METADATA = pa.schema({"metadata": pa.string()})  # JSON
"""A further column of questions."""

OF_SOLUTIONS = pa.schema({"solution_index": pa.int16()})  # of features of all solutions: place in the question file

# Rows of a group: what is held before it is written, and a row group of a Parquet file.
FEATURE_ROWS = 1 << 18
QUESTION_ROWS = 1 << 10


def read_features(
    path: str | PathLike[str], layers: Collection[int] | None = None, top_k: int | None = None
) -> pa.Table:
    """The features of every scored question, about 22 bytes a row, in the order of the file.

    Of a file with several readings those of all, one after the other, with three columns more: `reading` tells which.

    Args:
        path: of the output file of a run (`.jsonl`), finished or growing.
        layers: only these; None for all.
        top_k: only so many of the strongest of each solution and layer; None for all that are listed.

    Raises:
        UsageError: there is no such file, or it has not these layers.
        LayerscopeError: a line is not a record.
    """
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}; it is the number of features to read of each list, from 1.")
    wanted = None if layers is None else frozenset(layers)
    file = RecordsFile.open(Path(path))
    schema = features_schema(file)
    rows = (feature_rows(record, wanted, top_k, file.readings, schema) for _, record in read_records(file))
    return _gathered(rows, schema)


def read_questions(path: str | PathLike[str]) -> pa.Table:
    """A row for every question, in the order of the file: the record without its features.

    With the columns of `OF_OTHERS` and `OF_METADATA` where the file has them.

    Args:
        path: of the output file of a run (`.jsonl`), finished or growing.

    Raises:
        UsageError: there is no such file.
        LayerscopeError: a line is not a record.
    """
    file = RecordsFile.open(Path(path))
    schema = questions_schema(file)
    return _gathered((question_row(record, schema) for _, record in read_records(file)), schema)


def read_records(file: RecordsFile) -> Iterator[tuple[bytes, Record | Unscored]]:
    """Every line of a file and its record, one after the other; shows how far it is.

    Raises:
        LayerscopeError: a line is not a record, or not the one that was written there, or the disk fails.
    """
    return shown(file.records(), file)


def features_schema(file: RecordsFile) -> pa.Schema:
    """Of the table of features of a file."""
    more = ((OF_READINGS, len(file.readings) > 1), (OF_SOLUTIONS, file.all_solutions))
    return pa.unify_schemas([FEATURES, *(schema for schema, there in more if there)])


def questions_schema(file: RecordsFile) -> pa.Schema:
    """Of the table of questions of a file."""
    more = ((OF_OTHERS, file.first is not None and file.first.others is not UNSET), (OF_METADATA, file.has_metadata))
    return pa.unify_schemas([QUESTIONS, *(schema for schema, there in more if there)])


def feature_rows(
    record: Record | Unscored,
    layers: frozenset[int] | None = None,
    top_k: int | None = None,
    readings: Sequence[str] = ("final",),
    schema: pa.Schema = FEATURES,
) -> pa.RecordBatch:
    """The rows of one record in the table of features; none for an error line.

    Args:
        readings: of the file.
        schema: of the file's table.

    Raises:
        UsageError: the record has not these layers.
    """
    if isinstance(record, Unscored):
        return pa.RecordBatch.from_pylist([], schema=schema)
    cells = list[tuple[int, int, int, int, int]]()  # solution, reading, layer, active features, listed features
    listed_features = list[Feature]()
    of_each = record.recorded if OF_SOLUTIONS.names[0] in schema.names else record.solutions
    for solution, details in enumerate(of_each):
        for number, name in enumerate(readings):
            reading = details.reading(name)
            for layer in _wanted(reading, layers):
                features = reading.active_features_by_layer[layer][:top_k]
                listed_features += features
                cells.append((solution, number, layer, reading.active_feature_count_by_layer[layer], len(features)))
    *of_cells, listed = np.array(cells, dtype=np.int64).reshape(-1, 5).T
    solutions, numbers, of_layer, active = (np.repeat(column, listed) for column in of_cells)
    firsts = np.repeat(np.cumsum(listed) - listed, listed)
    n_rows, correct = len(listed_features), record.model_is_correct
    columns = [
        pa.array([record.example_id] * n_rows, pa.int32()),
        pa.DictionaryArray.from_arrays(np.minimum(solutions, len(_SIDES) - 1).astype(np.int8), _SIDES),
        pa.array(of_layer, pa.int16()),
        pa.array(np.arange(n_rows) - firsts + 1, pa.int32()),
        pa.array([feature.feature_id for feature in listed_features], pa.int32()),
        pa.array([feature.activation for feature in listed_features], pa.float32()),
        pa.array(active, pa.int32()),
        pa.array(solutions == (0 if correct else 1)),  # the strongest wrong one, where the right one is not preferred
        pa.array([correct] * n_rows, pa.bool_()),
    ]
    if len(readings) > 1:
        columns += _of_readings(of_each, listed_features, solutions, numbers, readings)
    if len(schema) > len(columns):
        places = [record.label, record.negative_index, *(other.index for other in record.more)]
        columns.append(pa.array(np.array(places)[solutions], pa.int16()))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _wanted(reading: ReadingLists, layers: frozenset[int] | None) -> list[int]:
    there = reading.active_features_by_layer
    if layers and (missing := sorted(layers - there.keys())):
        raise UsageError(f"The file has no layer {', '.join(map(str, missing))}; it has {', '.join(map(str, there))}.")
    return [layer for layer in there if layers is None or layer in layers]


def _of_readings(
    of_each: Sequence[SolutionDetails],
    features: Sequence[Feature],
    solutions: Ints,
    numbers: Ints,
    readings: Sequence[str],
) -> list[pa.Array]:
    """The columns of `OF_READINGS`: of every row its feature, solution and reading."""
    at = [[_token(details, name) for name in readings] for details in of_each]
    tokens, token_counts = list[int | None](), list[int | None]()
    for feature, solution, number in zip(features, solutions.tolist(), numbers.tolist(), strict=True):
        if isinstance(feature, PlacedFeature):
            tokens.append(feature.token)
            token_counts.append(feature.token_count)
        else:
            tokens.append(at[solution][number])
            token_counts.append(None)
    names = pa.DictionaryArray.from_arrays(numbers.astype(np.int8), list(readings))
    return [names, pa.array(tokens, pa.int32()), pa.array(token_counts, pa.int32())]


def _token(details: SolutionDetails, reading: str) -> int | None:
    """Which of the solution's tokens a reading is of, where it is one."""
    if reading == "final":
        return details.token_count - 1
    lists = details.reading(reading)
    return lists.token if isinstance(lists, LastWordReading) else None


def question_row(record: Record | Unscored, schema: pa.Schema = QUESTIONS) -> pa.RecordBatch:
    """The row of one record in the table of questions.

    Args:
        schema: of the file's table.
    """
    row: dict[str, Any] = {"example_id": record.example_id, "error": record.error or None}
    if record.metadata is not UNSET:
        row["metadata"] = orjson.dumps(record.metadata).decode()
    if isinstance(record, Record):
        row |= {name: getattr(record, name) for name in ("question", "label", "model_is_correct")}
        for solution, details in zip(SOLUTIONS, record.solutions, strict=True):
            for name in ("text", "log_likelihood", "token_count", "final_token"):
                row[f"{solution}_{name}"] = getattr(details, name)
        row["margin"] = np.float32(row["positive_log_likelihood"]) - np.float32(row["negative_log_likelihood"])
        row["model_is_correct_per_character"] = record.correct_per_character()
        row |= {"solutions": 2 + len(record.more), "margin_to_mean": np.float32(record.margin_to_mean)}
        names = ("index", "text", "log_likelihood", "token_count")
        others = [{name: getattr(other, name) for name in names} for other in record.more]
        row["others"] = orjson.dumps(others).decode()
    return pa.RecordBatch.from_pylist([row], schema=schema)


class RowGroups:
    """Joins the rows of many records into tables of about equally many rows; closed by leaving its `with` block."""

    def __init__(self, take: Callable[[pa.Table], object], rows: int) -> None:
        """
        Args:
            take: gets every table.
            rows: how many a table has; at most those of one record more.
        """
        self._take, self._limit = take, rows
        self._batches = list[pa.RecordBatch]()
        self._rows = 0

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(self, exception: object, *_: object) -> None:
        if exception is None:
            self._flush()

    def add(self, rows: pa.RecordBatch) -> None:
        self._batches.append(rows)
        self._rows += rows.num_rows
        if self._rows >= self._limit:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._take(pa.Table.from_batches(self._batches).combine_chunks())
        self._batches, self._rows = [], 0


def _gathered(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    tables = list[pa.Table]()
    with RowGroups(tables.append, FEATURE_ROWS) as groups:
        for batch in batches:
            groups.add(batch)
    return pa.concat_tables([schema.empty_table(), *tables])
