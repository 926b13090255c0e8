"""What becomes of computed lines: they are written, counted and shown; and what a file lacks, or has to have anew.

Knows no Ray, and not who computes.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from layerscope.engine.batches.lines import BatchLines
from layerscope.formatting import count_of
from layerscope.questions.plan import Plan
from layerscope.records.advice import RUNNING
from layerscope.records.line.record import Unscored
from layerscope.records.manifest.fingerprints import Fingerprints
from layerscope.records.reading.run import Run
from layerscope.records.totals import Totals
from layerscope.records.writing.journal import Journal
from layerscope.records.writing.marks import marks_path
from layerscope.records.writing.replacing import Replacement
from layerscope.records.writing.write_behind import WriteBehind


class Shown(Protocol):
    """What a person sees of the work, or whoever tells them."""

    totals: Totals

    def note(self, text: str) -> None:
        """Tells something."""
        ...

    def update(self) -> None:
        """Shows the totals as they are now."""
        ...

    def begin_again(self, questions: int) -> None:
        """Counts questions that are computed once more, because an actor or a node was lost."""
        ...


@dataclass(frozen=True)
class Work:
    """Computing what a file lacks, and what is to be computed once more."""

    plan: Plan
    file: Journal
    progress: Shown
    fingerprints: Fingerprints
    results: Callable[[Sequence[int]], Generator[BatchLines]]
    """From the batches that are wanted to their lines. Closed while Ray is there: it ends the actors."""

    def go_on(self) -> None:
        """Computes and writes what the file lacks."""
        there = self.file.lines
        batches = range(self.plan.batch_of(there), len(self.plan))
        with closing(self.results(batches)) as computed, WriteBehind(self.file) as writer:
            for of_batch in computed:
                # A run that was killed within a batch left some of its lines: they are the same, and are passed over.
                known = max(0, there - int(self.plan.starts[of_batch.batch]))
                self._note(of_batch, writer.flush)
                new = of_batch.behind(known)
                writer.append(new.to_append(), new.residuals, new.totals)
                self.count(new)
                self.progress.update()

    def count(self, new: BatchLines) -> None:
        """Adds lines to what a person sees."""
        self.progress.totals.join(new.totals)

    def retry(self, error_lines: list[int]) -> int:
        """Computes the batches of some lines again and replaces these lines; gives how many were not come to.

        Whole batches, because a question's last digits depend on what it shares a batch with.
        """
        self.progress.note(f"Retrying {count_of(len(error_lines), 'question')} with an error line.")
        wanted = set(error_lines)

        def replacements(computed: Iterable[BatchLines]) -> Iterator[Replacement]:
            for of_batch in computed:
                self._note(of_batch)
                first = int(self.plan.starts[of_batch.batch])
                for place, line in enumerate(of_batch.texts()):
                    if first + place in wanted:
                        wanted.remove(first + place)
                        yield Replacement(first + place, line, of_batch.residuals.line(place))

        with closing(self.results(sorted({self.plan.batch_of(line) for line in error_lines}))) as computed:
            found = replacements(computed)
            if (first := next(found, None)) is None:
                return len(wanted)
            self.file.rewrite(chain([first], found))
        self.progress.totals = Totals()
        for _, record in Run.open(self.file.path, RUNNING).records():
            self.progress.totals.add_record(record)
        return len(wanted)

    def _note(self, of: BatchLines, before: Callable[[], None] = lambda: None) -> None:
        """Notes in the manifest how a batch was computed, if there is news; `before` waits for whoever writes there."""
        clamped = of.residuals.clamped
        if of.halved:
            self.progress.note(f"Batch {of.batch} did not fit the memory and was halved; the manifest names it.")
        if clamped:
            self.progress.note(
                f"Batch {of.batch} has residuals beyond --residuals float16, kept as its largest number, 65504; the "
                "manifest names it."
            )
        if of.halved or clamped or self.file.fingerprints != self.fingerprints.noted:
            before()
            batch = [of.batch]
            self.file.note_computed(batch * of.halved, self.fingerprints.noted, batch * clamped)


def recovered(file: Journal, warn: Callable[[str], None], retry_errors: bool) -> tuple[Totals, list[int]]:
    """Reads what a file of records holds: its totals, and which of its lines are error lines if they are wanted."""
    kinds = list[bool]()
    recover(file, lambda record: kinds.append(isinstance(record, Unscored)), warn, every=retry_errors)
    return file.totals or Totals(), [number for number, is_error in enumerate(kinds) if is_error and retry_errors]


def recover(file: Journal, count: Callable[[Any], None], warn: Callable[[str], None], every: bool = True) -> None:
    """Reads what a file holds; `count` gets every record, or whatever it is: see `Journal.recover`. Warns of what
    nothing notes of it."""
    if unnoted := file.recover(count, every):
        marks = marks_path(file.path).name
        warn(
            f"Nothing notes the last {count_of(unnoted, 'line')} of {file.path}: {marks} is gone, or damaged."
            "\nThey fit the plan and are taken as they are; --overwrite computes them anew."
        )
