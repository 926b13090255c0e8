"""The page of a folder: its runs in a table, with what each comes to and the way to its own page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from layerscope.analysis.testing.proportion import Proportion
from layerscope.analysis.testing.statistics import wilson
from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import count_of, size_text, utf8
from layerscope.records.goals import GoalGroups
from layerscope.records.line.record import Record
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import read_run
from layerscope.records.totals import Totals
from layerscope.report.document import address_of, document, page_environment, page_target, said_by, write_page
from layerscope.report.sections.groups import share_picture
from layerscope.report.stages import Stages

_STYLE = ("page.css", "charts.css", "tables.css", "sides.css", "screens.css")
_SCRIPT = ("base.js", "state.js", "tables.js", "saving.js", "rows.js")
_NO_SHARE = Proportion(0, 0, float("nan"), float("nan"))


@dataclass(frozen=True)
class Row:
    """A run as the table has it."""

    name: str
    page: str = ""
    """The address of its report, where there is one."""
    wrong: str = ""
    """Why it cannot be read; then all that follows is empty."""
    state: str = ""
    model: str = ""
    questions: str = ""
    """Where its questions are from."""
    written: str = ""
    done: int = 0
    planned: int | None = None
    """None where no manifest says."""
    errors: int = 0
    accuracy: Proportion = _NO_SHARE
    picture: Markup | str = ""
    findings: str = ""
    """Confirmed features that tell right from wrong, as its report has them; empty without one."""
    findings_of: int = 0
    """Questions that the report is of."""


def folder_page(
    folder: Path, runs: Sequence[Sequence[Path]], to: Path | None, title: str = "", show: bool = False
) -> str:
    """Writes the page and says where it is.

    Args:
        runs: the files of each.
        to: the page; `index.html` in the folder if None.
        title: what it is called; the folder's name if empty.
        show: open it in the browser.

    Raises:
        UsageError: something else is there.
        LayerscopeError: it cannot be written.
    """
    files = [path for run in runs for path in run]
    default = folder / "index.html"
    if to is None and any(run[0].with_suffix(".html") == default for run in runs):
        raise UsageError(f"{default} is the place of the report of one of these runs.\nName another one with --to.")
    to = page_target(to, default, files)
    rows = []
    with Stages() as stages:
        for number, run in enumerate(runs):
            stages.tell("reading runs", number / len(runs))
            rows.append(_row(run, to))
    said = {
        "title": title,
        "folder": utf8(folder.resolve().name or str(folder)),
        "verdict": folder_verdict(rows),
        "rows": rows,
    }
    page = document(page_environment(), "folder.html.jinja", _STYLE, _SCRIPT, said)
    write_page(to, page, show)
    return f"index       {to} ({count_of(len(rows), 'run')}, {size_text(len(page))})"


def folder_verdict(rows: Sequence[Row]) -> str:
    """How many runs there are, and how far."""
    told = [count_of(len(rows), "run")]
    states = [row.state or "cannot be read" for row in rows]
    counts = ", ".join(f"{states.count(state):,} {state}" for state in dict.fromkeys(sorted(states)))
    without = sum(not row.page for row in rows)
    told.append(f"{counts}.")
    if without:
        told.append(f"{count_of(without, 'run')} {'has' if without == 1 else 'have'} no report here yet.")
    return f"{told[0]}: {' '.join(told[1:])}"


def _row(files: Sequence[Path], to: Path) -> Row:
    name = utf8(files[0].name) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    try:
        run = read_run(list(files))
        page = run.path.with_suffix(".html")
        return _of_run(run, address_of(page, to), said_by(page))
    except LayerscopeError as error:
        return Row(name, wrong=str(error).splitlines()[0])


def _of_run(run: Run, page: str, says: dict[str, str]) -> Row:
    totals, goals, chance = Totals(), GoalGroups(), 0.0
    for _, record in run.records():
        totals.add_record(record)
        if isinstance(record, Record):
            goals.add(record.question)
            chance += 1 / (2 + len(record.more))
    identity = run.manifest.identity
    planned = None if run.unnoted else identity.plan.questions
    accuracy = wilson(totals.correct, totals.scored, goals.effective)
    stopped = "complete" if planned is not None and totals.questions >= planned else "stopped"
    written = max(part.path.stat().st_mtime for part in run.parts)
    return Row(
        name=run.name,
        page=page,
        state="without a manifest" if run.unnoted else "being written" if run.alive() else stopped,
        model=run.manifest.model,
        questions=" ".join(identity.questions.values()) or "unknown",
        written=f"{datetime.fromtimestamp(written, UTC):%Y-%m-%d %H:%M}",
        done=totals.questions,
        planned=planned,
        errors=totals.errors,
        accuracy=accuracy,
        picture=share_picture(accuracy, chance / totals.scored) if totals.scored else "",
        findings=says.get("findings", ""),
        findings_of=int(says.get("questions", "0")),
    )
