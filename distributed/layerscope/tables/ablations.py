"""The table of a file of ablations: a row for every line. Reads it once and as a stream; writes nothing."""

from collections.abc import Iterator, Sequence
from itertools import islice
from os import PathLike

import pyarrow as pa

from layerscope.files import user_path
from layerscope.records.ablations import Ablation, AblationFile

ABLATIONS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("layer", pa.int16()),
        ("feature_id", pa.int32()),
        ("control", pa.string()),
        ("margin", pa.float32()),
        ("margin_ablated", pa.float32()),
        ("tokens", pa.int32()),
        ("error", pa.string()),
    ]
)
ABLATION_ROWS = 1 << 16
"""Lines that are held as such at once."""


def read_ablations(file: str | PathLike[str]) -> pa.Table:
    """A row for every question, feature and kind, about 50 bytes each, in the order of the file.

    `control` is null for the feature itself; the margins are null where a question cannot be scored, and `error` says
    why.

    Args:
        file: of `layerscope ablate` (`.jsonl`), finished or growing.

    Raises:
        UsageError: there is no such file, or it is none of ablations.
        LayerscopeError: a line is not the one that was written there.
    """
    lines = (found for _, found in AblationFile.open(user_path(file)).entries())
    return pa.Table.from_batches(map(ablation_rows, several(lines)), ABLATIONS)


def several(lines: Iterator[Ablation]) -> Iterator[list[Ablation]]:
    """All of them, so many at a time."""
    while some := list(islice(lines, ABLATION_ROWS)):
        yield some


def ablation_rows(lines: Sequence[Ablation]) -> pa.RecordBatch:
    """A row for each."""
    columns = [pa.array([getattr(line, field.name) for line in lines], field.type) for field in ABLATIONS]
    return pa.RecordBatch.from_arrays(columns, schema=ABLATIONS)
