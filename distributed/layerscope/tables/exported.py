"""Tables of features that `layerscope export` wrote as Parquet, with a row for every feature or for every list of them.

Read group of rows by group; what is left out is not held.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import ranges
from layerscope.tables.columns import FEATURES, OF_READINGS, OF_SOLUTIONS, lists_schema

SUFFIX = ".parquet"


def read_exported(paths: Sequence[Path], layers: frozenset[int] | None, top_k: int | None) -> pa.Table:
    """The features of files of one form or the other, a row for each.

    Args:
        layers: only these; None for all.
        top_k: only so many of each list; None for all.

    Raises:
        UsageError: there is no such file, it has no such table, or not these layers.
        LayerscopeError: it cannot be read.
    """
    seen, tables = set[int](), list[pa.Table]()
    for path in paths:
        for group in _groups(path):
            seen.update(group["layer"].unique().to_pylist())
            if layers is not None:
                group = group.filter(pc.is_in(group["layer"], pa.array(sorted(layers), pa.int16())))
            table = _rows(group) if _has_lists(group.schema) else group
            tables.append(table if top_k is None else table.filter(pc.less_equal(table["rank"], top_k)))
    if layers and (missing := layers - seen):
        raise UsageError(f"The file has no layer {ranges(missing)}; it has {ranges(seen) or 'none'}.")
    return pa.concat_tables(tables).unify_dictionaries()


def _groups(path: Path) -> Iterator[pa.Table]:
    """Of rows, at least one."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}. Name a run's .jsonl file, or a .parquet file of its features.")
    try:
        with parquet.ParquetFile(path) as file:
            _expect_features(path, file.schema_arrow)
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)
            if not file.num_row_groups:
                yield file.read()
    except (pa.ArrowException, OSError) as error:
        told = str(error).splitlines()[0][:200]
        raise LayerscopeError(f"{path} cannot be read as Parquet: {told}.\nExport it once more.") from error


def _expect_features(path: Path, schema: pa.Schema) -> None:
    whole = pa.unify_schemas([FEATURES, OF_READINGS, OF_SOLUTIONS])
    for known in (whole, lists_schema(whole)):
        wanted = {field.name: field.type for field in known}
        least = {name for name in wanted if name in FEATURES.names}
        if least <= set(schema.names) and all(wanted.get(field.name) == field.type for field in schema):
            return
    raise UsageError(
        f"{path} has no features as `layerscope export` writes them; its columns are {', '.join(schema.names)[:200]}.\n"
        "Name the .parquet file that was exported, or the run's .jsonl file."
    )


def _has_lists(schema: pa.Schema) -> bool:
    return bool(pa.types.is_list(schema.field("feature_id").type))


def _rows(lists: pa.Table) -> pa.Table:
    """A row for every feature of a table with a row for every list."""
    lists = lists.combine_chunks()
    lengths = pc.list_value_length(lists["feature_id"]).to_numpy()
    places = np.repeat(np.arange(len(lengths)), lengths)
    ranks = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    columns = {
        name: pc.list_flatten(lists[name])
        if pa.types.is_list(lists.schema.field(name).type)
        else lists[name].take(places)
        for name in lists.schema.names
    }
    columns["rank"] = pa.array(ranks, pa.int32())
    order = [name for schema in (FEATURES, OF_READINGS, OF_SOLUTIONS) for name in schema.names if name in columns]
    return pa.table({name: columns[name] for name in order})
