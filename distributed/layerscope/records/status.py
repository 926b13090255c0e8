"""How far a run is, from its file alone."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from layerscope.formatting import count_of, size_text, utf8, visible
from layerscope.records.ablations import AblationFile, AblationTotals, open_written
from layerscope.records.goals import GoalGroups
from layerscope.records.line.record import Unscored
from layerscope.records.reading.residuals import Layout, expect_rows, residuals_path
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import named_files, open_run, without_batches
from layerscope.records.totals import Totals

_ERRORS_NAMED = 10


@dataclass(frozen=True)
class Status:
    """What a person wants to know of a run."""

    file: str
    bytes: int
    state: str
    """`a run is writing it`, `complete`, `stopped`, or why it stays empty."""
    done: int
    """Lines so far, error lines among them."""
    planned: int
    errors: tuple[int, ...]
    """The `example_id` of every error line."""
    accuracy: str
    accuracy_per_character: str
    residuals: dict[str, Any] | None
    """The folder of the residuals and what it holds, where the run keeps any."""
    goals: dict[str, int]
    """How many goal groups the scored questions make, and how many questions share one."""
    to_go_on: str | None
    """The command, where there is something left to do and nobody does it."""
    software: dict[str, str]
    hardware: str


@dataclass(frozen=True)
class AblationStatus:
    """The same of a file of ablations."""

    file: str
    bytes: int
    state: str
    done: int
    """Lines so far."""
    planned: int
    errors: int
    """Of these, lines of questions that cannot be scored."""
    flips: int
    """Lines of features in which the answer is another afterwards."""
    run: str
    """The file that it is of."""
    to_go_on: str | None
    software: dict[str, str]
    hardware: str


def status(path: Path) -> Status | AblationStatus:
    """Reads every line of a run, finished or growing.

    Raises:
        UsageError: there is no such file, or it has no manifest, or a folder holds several runs.
        LayerscopeError: a line is not the record that was written there.
    """
    _, paths = named_files(path)
    run = open_written(paths[0]) if len(paths) == 1 else open_run(path)
    if isinstance(run, AblationFile):
        return _of_ablations(run)
    totals, errors, goals, lines = Totals(), list[int](), GoalGroups(), list[int]()
    for part in run.parts:
        before = totals.questions
        for _, record in part.records():
            totals.add_record(record)
            if isinstance(record, Unscored):
                errors.append(record.example_id)
            else:
                goals.add(record.question)
        lines.append(totals.questions - before)
    alive, identity = run.alive(), run.manifest.identity
    complete = totals.questions == run.planned
    empty = without_batches(run.manifest)
    return Status(
        file=utf8(f"{run.path}{run.others}"),
        bytes=sum(part.path.stat().st_size for part in run.parts),
        state="a run is writing it"
        if alive
        else f"empty for good: its {empty}"
        if empty
        else "complete"
        if complete
        else "stopped",
        done=totals.questions,
        planned=run.planned,
        errors=tuple(errors),
        accuracy=totals.accuracy(),
        accuracy_per_character=totals.accuracy_per_character(),
        residuals=_residuals(run, lines),
        goals=goals.result(),
        to_go_on=None if alive or complete else _to_go_on(run),
        software=identity.software,
        hardware=identity.hardware,
    )


def _of_ablations(file: AblationFile) -> AblationStatus:
    totals = AblationTotals()
    for _, ablation in file.entries():
        totals.add(ablation)
    alive, complete = file.alive(), totals.questions == file.planned
    return AblationStatus(
        file=utf8(str(file.path)),
        bytes=file.path.stat().st_size,
        state="it is being written" if alive else "complete" if complete else "stopped",
        done=totals.questions,
        planned=file.planned,
        errors=totals.errors,
        flips=totals.flips,
        run=file.about.run,
        to_go_on=None if alive or complete else _to_go_on(file),
        software=file.manifest.identity.software,
        hardware=file.manifest.identity.hardware,
    )


def as_text(found: Status | AblationStatus) -> str:
    """For people; what the manifest says is made visible before a terminal gets it."""
    if isinstance(found, AblationStatus):
        lines = [
            f"file      {found.file} ({size_text(found.bytes)})",
            f"of        {visible(found.run)}",
            f"state     {found.state}",
            f"done      {found.done} of {count_of(found.planned, 'line')} of ablations",
            f"errors    {found.errors}",
            f"flips     {found.flips}, lines of features in which the answer is another afterwards",
            *([f"to go on  {visible(found.to_go_on)}"] if found.to_go_on else []),
        ]
        return "\n".join(lines)
    named = f" (example_id {', '.join(map(str, found.errors[:_ERRORS_NAMED]))})" if found.errors else ""
    lines = [
        f"file      {found.file} ({size_text(found.bytes)})",
        f"state     {found.state}",
        f"done      {found.done} of {count_of(found.planned, 'question')}",
        f"errors    {len(found.errors)}{named}",
        f"accuracy  {found.accuracy} (acc), {found.accuracy_per_character} (acc_norm)",
        *([_residuals_line(found.residuals)] if found.residuals else []),
        *([f"to go on  {visible(found.to_go_on)}"] if found.to_go_on else []),
    ]
    return "\n".join(lines)


def as_json(found: Status | AblationStatus) -> str:
    """For programs, and for whoever reports a fault."""
    return orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2).decode()


def _residuals(run: Run, lines: Sequence[int]) -> dict[str, Any] | None:
    """
    Args:
        lines: of each part.
    """
    layouts = [Layout.of(part.path, part.manifest) for part in run.parts if isinstance(part, Run)]
    if not layouts[0].layers:
        return None
    for layout, rows in zip(layouts, lines, strict=True):
        expect_rows(layout, rows)
    return {
        "folder": utf8(f"{residuals_path(run.parts[0].path)}{run.others}"),
        "format": layouts[0].dtype.name,
        "readings": layouts[0].readings,
        "rows": sum(lines),
        "bytes": sum(layout.size(rows) for layout, rows in zip(layouts, lines, strict=True)),
        "clamped_batches": run.manifest.clamped_batches,
    }


def _residuals_line(found: dict[str, Any]) -> str:
    clamped = count_of(len(found["clamped_batches"]), "batch")
    beyond = f"; {clamped} with numbers beyond that format" if found["clamped_batches"] else ""
    return (
        f"residuals {found['folder']} ({size_text(found['bytes'])}): {found['format']} of "
        f"{', '.join(found['readings'])}{beyond}"
    )


def _to_go_on(run: Run) -> str:
    about = run.manifest.about
    # Not by Path, which raises where the folder lies in somebody's home.
    there = f"cd {shlex.quote(about.folder)} && " if os.path.isdir(about.folder) else ""  # noqa: PTH112
    return there + about.command
