"""A writer: it drives a part, with a file, a lock and a share of the machines of its own; what any run computes.

Knows no Ray. `writer_actor.py` makes an actor of it, `writers.py` has many at work.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from layerscope.engine.batches.lines import BatchLines
from layerscope.engine.budget import Budget
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.interface import Engine
from layerscope.engine.timeline import Timeline
from layerscope.engine.work import Shown, Work, recovered
from layerscope.errors import TakenError
from layerscope.planning.job import Job
from layerscope.records.manifest.fingerprints import Fingerprints
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About
from layerscope.records.storage.object_journal import open_output
from layerscope.records.totals import Totals
from layerscope.records.writing.journal import Journal

_LOCK_SECONDS = 60.0  # for which a writer that died, or its node, may yet seem to hold a part
_AGAIN_SECONDS = 1.0


class Task(NamedTuple):
    """A part to be written."""

    job: Job
    identity: Identity
    about: About
    again: bool
    """Another writer of this run has had it."""


@dataclass(frozen=True)
class News:
    """How far a writer is."""

    totals: Totals
    at_work: bool
    """Batches are being computed."""
    notes: tuple[str, ...]
    """What a person should know, since it was asked last."""
    begun_again: int
    """Questions that were computed once more, since it was asked last."""


@dataclass(frozen=True)
class Outcome:
    """Where a writer ended."""

    lines: int
    """Of its file."""
    left: int
    """Lines with errors that were to be computed again and were not come to."""
    news: News


class ShownAtWork(Shown, Protocol):
    """What is told too when work begins."""

    def begin(self) -> None:
        """Notes that work begins, unless it has."""
        ...


def compute(
    job: Job,
    engine: Engine,
    file: Journal,
    shown: ShownAtWork,
    timeline: Timeline,
    retried: list[int],
    stopped: Callable[[], bool],
) -> int:
    """Computes what a file lacks, and error lines once more.

    Args:
        retried: these.
        stopped: whether to come to an end.

    Returns:
        how many error lines were not come to.
    """
    fingerprints = Fingerprints(file.fingerprints)

    def results(batches: Sequence[int]) -> Generator[BatchLines]:
        crew = Crew(job, engine, shown.note, fingerprints)
        budget = Budget(job, engine.object_store_bytes())
        driver = Driver(job, batches, crew, budget, shown.note, timeline, shown.begin, shown.begin_again)
        yield from driver.results(lambda: stopped() or file.is_taken_away())

    work = Work(job.plan, file, shown, fingerprints, results)
    left = work.retry(retried) if retried else 0
    # Without a batch to compute no actor is started, nor for one whom a signal would send away at once.
    if not stopped() and file.lines < job.n_questions:
        work.go_on()
    return left


def opened(task: Task, patient: bool, stopped: Callable[[], bool] = lambda: False, overwrite: bool = False) -> Journal:
    """Opens and locks a part, new or to go on with.

    Args:
        patient: whether a writer that died may yet seem to hold it.
        stopped: whether to come to an end.

    Raises:
        UsageError, LayerscopeError: as `open_journal`.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            about = task.about.with_order(task.job.plan.order)
            return open_output(task.job.output.records, task.identity, about, overwrite)
        except TakenError:
            if not patient or stopped() or time.monotonic() > deadline:
                raise
        time.sleep(_AGAIN_SECONDS)


class Writer:
    """Writes a part; is asked for news by others while it does."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._at_work = self._stopped = False
        self._notes, self._begun_again = deque[str](), deque[int]()

    def run(self, task: Task, engine: Engine) -> Outcome:
        """Computes and writes what a part lacks, until it is finished or stopped.

        Raises:
            LayerscopeError: a fault that a retry does not mend.
        """
        job = task.job
        with opened(task, task.again, lambda: self._stopped) as file:
            self.totals, retried = recovered(file, self._warn, job.output.retry_errors)
            left = 0
            if file.lines < job.n_questions or retried:
                with Timeline(job.output.timeline) as timeline:
                    left = compute(job, engine, file, self, timeline, retried, lambda: self._stopped)
            return Outcome(file.lines, left, self.news())

    def stop(self) -> None:
        """Has it come to an end, with whole lines."""
        self._stopped = True

    def news(self) -> News:
        """How far it is."""
        notes = [self._notes.popleft() for _ in range(len(self._notes))]
        again = sum(self._begun_again.popleft() for _ in range(len(self._begun_again)))
        return News(replace(self.totals), self._at_work, tuple(notes), again)

    def note(self, text: str) -> None:
        """Has the head tell something."""
        self._notes.append(text)

    def _warn(self, text: str) -> None:
        self.note(f"Warning: {text}")

    def begin(self) -> None:
        """Notes that work begins."""
        self._at_work = True

    def begin_again(self, questions: int) -> None:
        """Has the head count them."""
        self._begun_again.append(questions)

    def update(self) -> None:
        """Nothing: it is asked."""
