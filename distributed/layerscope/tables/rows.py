"""The rows of one record in the tables: one for every feature listed or for every list of them, one for the question.

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
from layerscope.records.line.held import Unlabelled
from layerscope.records.line.readings import Feature, LastWordReading, PlacedFeature, ReadingLists
from layerscope.records.line.record import SOLUTIONS, Record, SolutionDetails, Unscored
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
    of_each = _of_each(record, schema)
    cells, listed_features = _cells(of_each, layers, top_k, readings)
    *of_cells, listed = cells.T
    solutions, numbers, of_layer, active = (np.repeat(column, listed) for column in of_cells)
    firsts = np.repeat(np.cumsum(listed) - listed, listed)
    n_rows = len(listed_features)
    columns = {
        **_of_solutions(record, solutions, schema),
        "layer": pa.array(of_layer, pa.int16()),
        "rank": pa.array(np.arange(n_rows) - firsts + 1, pa.int32()),
        **_of_features(listed_features),
        "active_feature_count": pa.array(active, pa.int32()),
    }
    if len(readings) > 1:
        columns |= _of_readings(of_each, listed_features, solutions, numbers, readings)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def feature_lists(record: Record | Unscored, readings: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    """The rows of one record in the table of lists of features: one for every solution, reading and layer.

    Args:
        readings: of the file.
        schema: of the file's table, as `lists_schema` gives it.
    """
    if isinstance(record, Unscored):
        return pa.RecordBatch.from_pylist([], schema=schema)
    of_each = _of_each(record, schema)
    cells, features = _cells(of_each, None, None, readings)
    solutions, numbers, of_layer, active, listed = cells.T
    columns = {
        **_of_solutions(record, solutions, schema),
        "layer": pa.array(of_layer, pa.int16()),
        "active_feature_count": pa.array(active, pa.int32()),
    }
    of_features = _of_features(features)
    if len(readings) > 1:
        of_features |= _of_readings(
            of_each, features, np.repeat(solutions, listed), np.repeat(numbers, listed), readings
        )
        del of_features["reading"]
        columns["reading"] = pa.DictionaryArray.from_arrays(numbers.astype(np.int8), list(readings))
    ends = pa.array(np.concatenate([[0], np.cumsum(listed)]), pa.int32())
    columns |= {name: pa.ListArray.from_arrays(ends, values) for name, values in of_features.items()}
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _of_each(record: Record, schema: pa.Schema) -> Sequence[SolutionDetails]:
    return record.recorded if OF_SOLUTIONS.names[0] in schema.names else record.solutions


def _cells(
    of_each: Sequence[SolutionDetails], layers: frozenset[int] | None, top_k: int | None, readings: Sequence[str]
) -> tuple[Ints, list[Feature]]:
    """[C, 5] of every list: solution, reading, layer, active features, listed features; and all that are listed."""
    cells, listed = list[tuple[int, int, int, int, int]](), list[Feature]()
    for solution, details in enumerate(of_each):
        for number, name in enumerate(readings):
            reading = details.reading(name)
            for layer in _wanted(reading, layers):
                features = reading.active_features_by_layer[layer][:top_k]
                listed += features
                cells.append((solution, number, layer, reading.active_feature_count_by_layer[layer], len(features)))
    return np.array(cells, dtype=np.int64).reshape(-1, 5), listed


def _of_solutions(record: Record, solutions: Ints, schema: pa.Schema) -> dict[str, pa.Array]:
    """What rows say of their question and solution."""
    correct, (place,) = record.model_is_correct, OF_SOLUTIONS.names
    columns = {
        "example_id": pa.array([record.example_id] * len(solutions), pa.int32()),
        "solution": pa.DictionaryArray.from_arrays(np.minimum(solutions, len(_SIDES) - 1).astype(np.int8), _SIDES),
        "chosen": pa.array(solutions == (0 if correct else 1)),  # the strongest wrong one, if not the right one
        "correct": pa.array([correct] * len(solutions), pa.bool_()),
    }
    if place in schema.names:
        places = [record.label, record.negative_index, *(other.index for other in record.more)]
        columns[place] = pa.array(np.array(places)[solutions], pa.int16())
    return columns


def _of_features(listed: Sequence[Feature]) -> dict[str, pa.Array]:
    return {
        "feature_id": pa.array([feature.feature_id for feature in listed], pa.int32()),
        "activation": pa.array([feature.activation for feature in listed], pa.float32()),
    }


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
) -> dict[str, pa.Array]:
    """The columns of `OF_READINGS`: of every feature, its solution and its reading."""
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
    return {"reading": names, "token": pa.array(tokens, pa.int32()), "token_count": pa.array(token_counts, pa.int32())}


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
        row |= {name: getattr(record, name) for name in ("question", "model_is_correct")}
        row["label"] = None if isinstance(record, Unlabelled) else record.label
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
