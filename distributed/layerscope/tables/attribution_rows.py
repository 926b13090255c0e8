"""The rows of one record in the tables of attributions: one for each that is listed, and for what they add up to."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from layerscope.errors import UsageError
from layerscope.records.line.attributions import GROUPS, TERMS, AttributedFeature
from layerscope.records.line.record import Record, Unscored
from layerscope.tables.columns import ATTRIBUTION_TERMS, ATTRIBUTIONS

_OF_A_FEATURE: dict[str, Callable[[AttributedFeature], float]] = {
    "feature_id": lambda feature: feature.feature_id,
    "attribution": lambda feature: feature.attribution,
    "activation": lambda feature: feature.activation,
    "token": lambda feature: feature.token,
}


def attribution_rows(
    record: Record | Unscored, layers: frozenset[int] | None = None, top_k: int | None = None
) -> pa.RecordBatch:
    """The rows of one record in the table of attributions; none for an error line.

    Raises:
        UsageError: the record has not these layers.
    """
    cells, listed = list[tuple[int, int, int]](), list[AttributedFeature]()  # group, layer, how many are listed
    for number, layer, lists, _ in _cells(record, layers):
        features = lists[layer][:top_k]
        listed += features
        cells.append((number, layer, len(features)))
    groups, of_layer, counts = np.array(cells, dtype=np.int64).reshape(-1, 3).T
    ranks = np.arange(len(listed)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    columns: list[Any] = [*_places(record, np.repeat(groups, counts), np.repeat(of_layer, counts)), ranks]
    columns += [[value(feature) for feature in listed] for value in _OF_A_FEATURE.values()]
    return _batch(columns, ATTRIBUTIONS)


def term_rows(record: Record | Unscored, layers: frozenset[int] | None = None) -> pa.RecordBatch:
    """The rows of one record in the table of their terms; none for an error line.

    Raises:
        UsageError: the record has not these layers.
    """
    cells = [(number, layer, terms[layer]) for number, layer, _, terms in _cells(record, layers)]
    groups, of_layer = np.array([cell[:2] for cell in cells], dtype=np.int64).reshape(-1, 2).T
    columns: list[Any] = [*_places(record, groups, of_layer)]
    columns += [[getattr(terms, name) for *_, terms in cells] for name in TERMS]
    return _batch(columns, ATTRIBUTION_TERMS)


def _cells(record: Record | Unscored, layers: frozenset[int] | None) -> list[tuple[int, int, Any, Any]]:
    """Of every group of tokens and wanted layer: both, and the group's attributions and terms."""
    found = list[tuple[int, int, Any, Any]]()
    for name, (lists, terms) in record.attributions.items() if isinstance(record, Record) else ():
        if layers and (missing := sorted(layers - lists.keys())):
            told = ", ".join(map(str, lists))
            raise UsageError(f"The file has no layer {', '.join(map(str, missing))}; it has {told}.")
        of_layers = (layer for layer in lists if layers is None or layer in layers)
        found += [(GROUPS.index(name), layer, lists, terms) for layer in of_layers]
    return found


def _places(record: Record | Unscored, groups: Sequence[int] | Any, layers: Any) -> list[Any]:
    """The columns that say of what a row is."""
    names = pa.DictionaryArray.from_arrays(np.asarray(groups, dtype=np.int8), list(GROUPS))
    return [[record.example_id] * len(groups), names, layers]


def _batch(columns: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """Columns as they are, or of the schema's types."""
    made = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(made, schema=schema)
