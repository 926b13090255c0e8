"""Whether a file is sound: every line of it, against the manifest and in itself."""

from layerscope.errors import LayerscopeError
from layerscope.formatting import count_of
from layerscope.records.ablations import AblationFile, open_written
from layerscope.records.line.checking import check
from layerscope.records.line.record import Record
from layerscope.records.reading.residuals import check_residuals
from layerscope.records.reading.run import RecordsFile, Run
from layerscope.records.reading.shards import Files, named_files, open_run, without_batches
from layerscope.records.reading.stretches import read_stretches
from layerscope.records.writing import locking


def verify(files: Files) -> str:
    """Reads every line of a file, or of the shards of one job, and checks schema, order, ids, digest and residuals.

    Raises:
        LayerscopeError: the first line that is off, and what is.
        UsageError: there is no such file, it has no manifest, or several are not shards of one job.
    """
    _, paths = named_files(files)
    if len(paths) == 1 and isinstance(file := open_written(paths[0]), AblationFile):
        return _verify_ablations(file)
    run = open_run(files)
    settings, about = run.manifest.identity.settings, run.manifest.about
    d_sae_of_others = {name: of.d_sae for name, of in about.other_dictionaries.items()}

    def look_closer(record: Record) -> None:
        check(record, settings.top_k, about.d_sae, d_sae_of_others, settings.attribution_means is not None)

    lines, unknown, behind = 0, 0, ""
    for part in run.parts:
        scored = [isinstance(record, Record) for _, record in part.records(look_closer)]
        lines += len(scored)
        unknown += _uncovered(part, len(scored))
        if isinstance(part, Run):
            check_residuals(part, scored)
        behind += _behind(part)
    beside = ", with their residuals" if run.manifest.identity.settings.residuals else ""
    but = f" but for {unknown} that nothing notes" if unknown else ""
    whole = f"all whole, in order and as they were written{but}{beside}{behind}"
    said = f"{lines} of {count_of(run.planned, 'line')}, {whole}."
    if why := without_batches(run.manifest):
        said = f"sound, and empty for good: its {why}."
    return "\n".join([f"{run.path}{run.others}: {said}", *run.notes])


def _verify_ablations(file: AblationFile) -> str:
    lines = sum(1 for _ in file.entries())
    unknown = _uncovered(file, lines)
    but = f" but for {unknown} that nothing notes" if unknown else ""
    whole = f"all whole, in order and as they were written{but}{_behind(file)}"
    return f"{file.path}: {lines} of {count_of(file.planned, 'line')} of ablations, {whole}."


def _uncovered(part: RecordsFile, lines: int) -> int:
    """How many lines fit the plan, and nothing says that they are the ones that were written; none while a run writes.

    Raises:
        LayerscopeError: all lines of a finished file are such, and a run notes what it has finished.
    """
    if lines <= part.covered or locking.is_locked(part.path):
        return 0
    if isinstance(part, Run) and not part.covered and lines == part.planned:
        raise LayerscopeError(
            f"{part.path} is finished, and its manifest notes none of its lines: nobody can say whether they are those "
            "that were written.\nPut the run's own manifest back; or go on with the run, which takes them as they are."
        )
    return lines - part.covered


def _behind(part: RecordsFile) -> str:
    """What lies behind the whole lines that were read of a file: a run may have written it meanwhile."""
    alive = locking.is_locked(part.path)  # before the rest is read: a run that ends in between ends its line
    more, end = 0, part.bytes_read
    for stretch in read_stretches(part.path, end):
        more, end = more + stretch.n_lines, end + stretch.size
    torn = part.path.stat().st_size - end
    if more:
        return f"; {more} more {'was' if more == 1 else 'were'} written meanwhile"
    what = "frame" if isinstance(part, Run) and part.manifest.packed else "line"
    if torn and alive:
        return "; a run is writing the next"
    return f"; behind them a torn {what} of {count_of(torn, 'byte')}, which the next run removes" if torn else ""
