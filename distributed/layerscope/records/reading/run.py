"""A run as whoever reads it sees it: its manifest, its lines, whether it is alive. One reader for every command.

Every line that is read is held against the manifest: it must be a record, the one that the plan has there, and the very
one that was written. Looking changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeVar

from msgspec import UNSET

from layerscope.config import READINGS
from layerscope.errors import LayerscopeError, UsageError, did_you_mean, remedy
from layerscope.formatting import utf8
from layerscope.records.advice import READING, Advice
from layerscope.records.line.held import parse_held
from layerscope.records.line.planned import hold_against_plan
from layerscope.records.line.record import NotARecordError, Record, Unscored, parse
from layerscope.records.manifest.manifest import Manifest, manifest_path, read_manifest
from layerscope.records.reading.stretches import NotAFrameError, other_form, read_placed, read_stretches
from layerscope.records.storage.addresses import existing_records
from layerscope.records.writing import locking
from layerscope.records.writing.extent import MARK_BYTES, Extent
from layerscope.records.writing.marks import read_marks

T = TypeVar("T")


class RecordsFile:
    """A file of records, with its manifest or without one."""

    def __init__(self, path: Path, manifest: Manifest | None, advice: Advice = READING) -> None:
        self.path = path
        self.size = path.stat().st_size
        """When it was opened, in bytes."""
        self.bytes_read = 0
        """Of its size, since it was last begun to be read."""
        self.stretch_begins = 0
        """Where the line that was read last has its place: see `LinesByPlace`."""
        self._known, self._advice = manifest, advice
        self._parse = parse_held if manifest is None else parse
        self._marks = b"" if manifest is None else read_marks(path, manifest.progress)

    @classmethod
    def open(cls, path: Path) -> "RecordsFile":
        """
        Raises:
            UsageError: there is no such file, or its manifest is none.
        """
        path = existing_records(path)
        return Run.open(path) if manifest_path(path).exists() else RecordsFile(path, None)

    @property
    def covered(self) -> int:
        """How many lines the manifest or the marks beside the file could tell from others, when it was opened."""
        if self._known is None:
            return 0
        return max(self._known.lines_noted(), self._known.lines_of(len(self._marks) // MARK_BYTES))

    @property
    def others(self) -> str:
        """What follows the file's name where it stands for several."""
        return f" and {len(self.parts) - 1} more" if len(self.parts) > 1 else ""

    @property
    def name(self) -> str:
        """For people."""
        return utf8(self.path.name) + self.others

    @property
    def parts(self) -> "tuple[RecordsFile, ...]":
        """One for each file: more than one where a job's shards are read together."""
        return (self,)

    @property
    def readings(self) -> tuple[str, ...]:
        """That the records have, in their order; `final` is the first."""
        return ("final",) if self.first is None else tuple(self.first.positive.readings)

    @property
    def all_solutions(self) -> bool:
        """Whether the records have the features of every wrong solution, not of the strongest alone."""
        for record in self._parsed():
            if record.more:
                return record.more[0].details is not None
        return False

    @property
    def has_metadata(self) -> bool:
        """Whether the records have other columns of the questions."""
        return self.first is not None and self.first.metadata is not UNSET

    @property
    def attributed(self) -> bool:
        """Whether the records have attributions."""
        return self.first is not None and bool(self.first.attributions)

    @cached_property
    def first(self) -> Record | None:
        """The first record of a scored question."""
        return next(self._parsed(), None)

    def _parsed(self) -> Iterator[Record]:
        for _, lines in chain.from_iterable(part._stretches(part._nothing_yet()) for part in self.parts):
            for line in lines:
                with suppress(NotARecordError):  # which is told where it is read
                    if isinstance(record := self._parse(line), Record):
                        yield record

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads several files must know of them."""
        return ()

    def records(
        self,
        check: Callable[[Record], None] = lambda _: None,
        to_go_on: bool = False,
        extent: Extent | None = None,
    ) -> Iterator[tuple[bytes, Record | Unscored]]:
        """Every whole line, its line end included, and the record that it holds.

        Args:
            check: looks closer at each record; raises NotARecordError.
            to_go_on: lines that were written and are gone (a disk may lie) are no fault: they are written again.
            extent: grows with what is read.

        Raises:
            LayerscopeError: the first line that is off, and what is; or the file cannot be read.
        """

        def held(line: bytes, number: int) -> Record | Unscored:
            record = self._parse(line)
            hold_against_plan(record, number, self._known)
            if isinstance(record, Record):
                check(record)
            return record

        return self._held(held, to_go_on, extent)

    def _held(
        self, held: Callable[[bytes, int], T], to_go_on: bool, extent: Extent | None = None
    ) -> Iterator[tuple[bytes, T]]:
        """Every whole line, and what is read of it.

        Args:
            held: from a line and its number, from 1, to what it holds; raises NotARecordError.
        """
        extent = self._nothing_yet() if extent is None else extent
        for first, lines in self._stretches(extent):
            for number, line in enumerate(lines, first):
                try:
                    found = held(line, number)
                    self._hold_against_mark(extent, first)
                except NotARecordError as error:
                    raise self._refused(number, str(error), first) from error
                yield line, found
        if not to_go_on:
            self._expect_all(extent)

    def lines(self) -> Iterator[bytes]:
        """Every whole line, its line end included; parses none.

        Raises:
            LayerscopeError: a line is not the one that was written there, or the file cannot be read.
        """
        extent = self._nothing_yet()
        for first, lines in self._stretches(extent):
            try:
                self._hold_against_mark(extent, first)
            except NotARecordError as error:
                raise self._refused(first, str(error), first) from error
            yield from lines
        self._expect_all(extent)

    def _nothing_yet(self) -> Extent:
        return Extent(self._known.progress) if self._known else Extent()

    def _stretches(self, extent: Extent) -> Iterator[tuple[int, Iterable[bytes]]]:
        """The number of the first line, from 1, and the lines of every whole stretch behind the extent, which grows."""
        self.bytes_read = extent.size
        try:
            if self._known is None:
                for extent.lines, placed in enumerate(read_placed(self.path), start=1):
                    self.stretch_begins, self.bytes_read = placed.begins, placed.read
                    yield extent.lines, [placed.line]
                return
            for stretch in read_stretches(self.path, extent.size):
                self.stretch_begins = extent.size
                extent.add(*stretch.raw, lines=stretch.n_lines)
                self.bytes_read = extent.size
                yield extent.lines - stretch.n_lines + 1, stretch.lines
        except NotAFrameError as error:
            raise self._spoilt(extent, error) from error
        except OSError as error:
            told = f"{self.path} cannot be read: {error.strerror or error}."
            raise LayerscopeError(f"{told}\n{remedy(error, self._advice.of(self.path).broken)}") from error

    def _spoilt(self, extent: Extent, error: NotAFrameError) -> LayerscopeError:
        place = f"{self.path}, line {extent.lines + 1} (byte {error.offset:,})"
        told = f"{place}: {error} is there. It was damaged, or another tool wrote there.\n"
        return LayerscopeError(told + self._what_to_do(extent.lines + 1, error.offset))

    def _what_to_do(self, first: int, begins: int) -> str:
        """Where the stretch that begins so is off: it was added, or something in it was changed."""
        added = self._known is not None and first == self.covered + 1
        return self._advice.about(self.path, begins, added)

    def _hold_against_mark(self, extent: Extent, first: int) -> None:
        """Holds the last stretch, which begins with line `first`, against what is known of it."""
        if self._known is None:
            return
        if not extent.agrees(self._known.progress, self._marks):
            differs = extent.differs(first, self._known.progress, self._marks)
            other = other_form(self.path, self._known.identity.packing)
            raise NotARecordError(other or f"{differs} written there")
        if self._known.packed and extent.lines != self._known.lines_of(extent.stretches):
            raise NotARecordError(f"a frame ends after line {extent.lines}, where no batch of the plan does")

    def _expect_all(self, extent: Extent) -> None:
        if self._known is not None and extent.lines < self._known.lines_noted():
            told = f"{self.path}, line {extent.lines + 1}: missing; {self._known.lines_noted()} lines were written.\n"
            raise LayerscopeError(told + "Restore it from a copy, or have the run's own command write them again.")

    def _refused(self, number: int, what: str, first: int = 0) -> LayerscopeError:
        told = f"{self.path}, line {number}: {what[:300]}.\n"
        return LayerscopeError(told + self._what_to_do(first, self.stretch_begins))


class Run(RecordsFile):
    """The output file of a run, and its manifest."""

    unnoted = ""  # what is not known for want of a manifest, for people
    of_ablations = False
    """What files of this class hold, in place of records."""

    def __init__(self, path: Path, manifest: Manifest, advice: Advice = READING) -> None:
        super().__init__(path, manifest, advice)
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, advice: Advice = READING) -> Self:
        """
        Args:
            advice: what a person can do where something is off.

        Raises:
            UsageError: there is no such file, or it has no manifest, or one that is none.
        """
        path = existing_records(path)
        manifest = read_manifest(path, advice)
        if (manifest.identity.ablation is not UNSET) != cls.of_ablations:
            here, there = ("ablations", "records") if cls.of_ablations else ("records", "ablations")
            about = manifest.about.ablation
            told = advice.no_manifest if about is UNSET else advice.of_ablations(path, about.run)
            raise UsageError(f"{path} holds {there} and not {here}, which are meant here.\n{told}")
        return cls(path, manifest, advice)

    def entries(self, to_go_on: bool = False, extent: Extent | None = None) -> Iterator[tuple[bytes, Any]]:
        """What the file holds, whatever that is: here `records`."""
        return self.records(to_go_on=to_go_on, extent=extent)

    @property
    def readings(self) -> tuple[str, ...]:
        return self.manifest.readings

    @property
    def all_solutions(self) -> bool:
        return self.manifest.identity.settings.all_solutions

    @property
    def has_metadata(self) -> bool:
        return self.manifest.identity.settings.metadata is not None

    @property
    def attributed(self) -> bool:
        return self.manifest.identity.settings.attribution is not None

    @property
    def planned(self) -> int:
        """Lines of the finished file."""
        return self.manifest.identity.plan.questions

    def check_reading(self, name: str) -> None:
        """
        Raises:
            UsageError: the records have no such reading.
        """
        if name not in (there := self.manifest.readings):
            again = f", or run again with --readings {name} and another --output-file" if name in READINGS else ""
            has = f"{self.path} has {', '.join(there)}.{did_you_mean(name, there)}"
            raise UsageError(f"--reading {name}: {has}\nName one of these{again}.")

    def alive(self) -> bool:
        """Whether somebody is writing it now."""
        return locking.is_locked(self.path)
