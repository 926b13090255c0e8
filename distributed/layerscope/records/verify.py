"""Whether a file is sound: every line of it, against the manifest and in itself."""

import os
from pathlib import Path

from layerscope.formatting import count_of
from layerscope.records.record import Record, check
from layerscope.records.run import Run
from layerscope.records.shards import Files, open_run

_BLOCK = 1 << 20


def verify(files: Files) -> str:
    """Reads every line of a file, or of the shards of one job, and checks schema, order, ids and digest.

    Raises:
        LayerscopeError: the first line that is off, and what is.
        UsageError: there is no such file, it has no manifest, or several are not shards of one job.
    """
    run = open_run(files)
    top_k, d_sae = run.manifest.identity.settings.top_k, run.manifest.about.d_sae

    def look_closer(record: Record) -> None:
        check(record, top_k, d_sae)

    lines = sum(1 for _ in run.records(look_closer))
    if not run.planned:
        said = "the plan has no batch for this shard, so it has no lines."
    else:
        said = f"{lines} of {count_of(run.planned, 'line')}, all whole, in order and as they were written{_tail(run)}."
    return "\n".join([f"{run.path}{run.others}: {said}", *run.notes])


def _tail(run: Run) -> str:
    """What there is behind the whole lines."""
    torn = sum(_begun(part.path) for part in run.parts)
    if torn and run.alive():
        return "; behind them a line that a run is writing now"
    return f"; behind them a torn line of {count_of(torn, 'byte')}, which the next run removes" if torn else ""


def _begun(path: Path) -> int:
    """Bytes of a line that has no end, behind the last one that has; lines that came since they were read have."""
    with path.open("rb") as stream:
        size = begin = stream.seek(0, os.SEEK_END)
        while begin:
            end, begin = begin, max(0, begin - _BLOCK)
            stream.seek(begin)
            if (found := stream.read(end - begin).rfind(b"\n")) >= 0:
                return size - (begin + found + 1)
    return size
