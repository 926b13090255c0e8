"""Whether a file is sound: every line of it, against the manifest and in itself."""

from layerscope.formatting import count_of
from layerscope.records.record import Record, check
from layerscope.records.shards import Files, open_run


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

    lines = size = 0
    for line, _ in run.records(look_closer):
        lines += 1
        size += len(line)
    torn = sum(part.path.stat().st_size for part in run.parts) - size
    tail = f"; behind them a torn line of {count_of(torn, 'byte')}, which the next run removes" if torn else ""
    said = f"{lines} of {count_of(run.planned, 'line')}, all whole, in order and as they were written{tail}."
    return "\n".join([f"{run.path}{run.others}: {said}", *run.notes])
