"""The rows of one record in the tables: one for every feature listed, one for the question.

Together the two tables hold all that the records hold, but for which layers have no active feature anywhere, and the
solutions' tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from msgspec import UNSET
from numpy.typing import NDArray

from layerscope.errors import UsageError
from layerscope.records.readings import Feature, LastWordReading, PlacedFeature, ReadingLists
from layerscope.records.record import SOLUTIONS, Record, SolutionDetails, Unscored
from layerscope.tables.columns import FEATURES, OF_SOLUTIONS, QUESTIONS

Ints = NDArray[np.int64]
_SIDES = [*SOLUTIONS, "other"]


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
