"""Whether a file is sound: every line of it, against the manifest and in itself."""

from pathlib import Path

from layerscope.formatting import count_of
from layerscope.records.record import Record, check
from layerscope.records.run import Run


def verify(path: Path) -> str:
    """Reads every line of a file and checks schema, order, ids and digest.

    Raises:
        LayerscopeError: the first line that is off, and what is.
        UsageError: there is no such file, or it has no manifest.
    """
    run = Run.open(path)
    top_k, d_sae = run.manifest.identity.settings.top_k, run.manifest.about.d_sae

    def look_closer(record: Record) -> None:
        check(record, top_k, d_sae)

    lines = size = 0
    for line, _ in run.records(look_closer):
        lines += 1
        size += len(line)
    torn = path.stat().st_size - size
    tail = f"; behind them a torn line of {count_of(torn, 'byte')}, which the next run removes" if torn else ""
    return f"{path}: {lines} of {count_of(run.planned, 'line')}, all whole, in order and as they were written{tail}."
