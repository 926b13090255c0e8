"""How far a run is, from its file alone."""

import shlex
from pathlib import Path

from layerscope.formatting import size_text
from layerscope.records.record import Unscored
from layerscope.records.run import Run
from layerscope.records.totals import Totals

_ERRORS_NAMED = 10


def status(path: Path) -> str:
    """What a person wants to know of a run: done, errors, accuracy so far, alive or not, how to go on.

    Raises:
        UsageError: there is no such file, or it has no manifest.
        LayerscopeError: a line is not the record that was written there.
    """
    run = Run.open(path)
    totals, errors = Totals(), list[int]()
    for _, record in run.records():
        totals.add_record(record)
        if isinstance(record, Unscored):
            errors.append(record.example_id)
    alive, about = run.alive(), run.manifest.about
    state = "a run is writing it" if alive else "complete" if totals.questions == run.planned else "stopped"
    named = f" (example_id {', '.join(map(str, errors[:_ERRORS_NAMED]))})" if errors else ""
    lines = [
        f"file      {path} ({size_text(path.stat().st_size)})",
        f"state     {state}",
        f"done      {totals.questions} of {run.planned} questions",
        f"errors    {totals.errors}{named}",
        f"accuracy  {totals.accuracy()} (acc), {totals.accuracy_per_character()} (acc_norm)",
    ]
    if not alive and totals.questions < run.planned:
        there = f"cd {shlex.quote(about.folder)} && " if Path(about.folder).is_dir() else ""
        lines.append(f"to go on  {there}{about.command}")
    return "\n".join(lines)
