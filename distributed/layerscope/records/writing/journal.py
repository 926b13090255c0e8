"""The output file: ordered, append-only, locked while a run is on it, and the manifest beside it.

At every moment the file is a byte-prefix of the finished one, but for one torn last line after a crash, which the next
run removes. Makes no record: whole lines come in, and what is there is read by `run.py`.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from layerscope.errors import LayerscopeError
from layerscope.files import remove_leftovers, replacing, sync_data, sync_folder
from layerscope.records.ablations import kind_of_file
from layerscope.records.advice import RUNNING
from layerscope.records.line.record import Unscored
from layerscope.records.manifest.differences import manifest_to_go_on_with
from layerscope.records.manifest.fingerprints import Fingerprint
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About, Manifest, manifest_path, write_manifest
from layerscope.records.manifest.noted import Progress
from layerscope.records.manifest.order import order_path
from layerscope.records.reading.residuals import Layout
from layerscope.records.reading.run import Run
from layerscope.records.totals import Totals
from layerscope.records.writing.appending import Line, append_lines, former
from layerscope.records.writing.extent import Extent
from layerscope.records.writing.going_on import begun, joined, passed_over, with_computed
from layerscope.records.writing.locking import open_locked
from layerscope.records.writing.marks import Marks, marks_path
from layerscope.records.writing.overwriting import forget_aside, has_records, put_aside
from layerscope.records.writing.replacing import Replacement, copy_replaced
from layerscope.records.writing.residual_files import NO_ROWS, ResidualFiles, ResidualRows
from layerscope.records.writing.taken_away import Watch

_CHECKPOINT_SECONDS = 5.0


class Journal:
    """The open output file of a run; made by `open_journal`, closed by leaving its `with` block."""

    def __init__(self, path: Path, descriptor: int, manifest: Manifest, known: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._manifest = manifest
        self._extent = Extent()
        self._checkpointed = 0.0
        self._known = known  # the extent is that of the file: nothing else may be noted in the manifest
        self._unsaved = False  # something of the manifest, to be on the disk before the next lines are
        self._watch = Watch(path, descriptor)
        self._marks = Marks(path)
        self._residuals = ResidualFiles(Layout.of(path, manifest))
        self._formed = former(manifest.format)
        self._totals = None if kind_of_file(manifest.identity).of_ablations else Totals()

    @property
    def totals(self) -> Totals | None:
        """What the records of these lines come to; None where that was not counted."""
        return None if self._totals is None else copy(self._totals)

    @property
    def lines(self) -> int:
        """How many whole lines the file has."""
        return self._extent.lines

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(
        self,
        lines: Iterable[Line],
        residuals: ResidualRows = NO_ROWS,
        totals: Totals | None = None,
    ) -> None:
        """Writes whole lines and waits until they are on the disk; before them their residuals, if the run keeps any.

        Args:
            totals: what they come to; noted where it is told of all lines.

        Raises:
            LayerscopeError: they cannot be written or synced; the file then ends where it ended before.
        """
        self._expect_untouched()
        if self._unsaved:
            self.checkpoint()
        more = self._extent.ahead()
        try:
            self._residuals.begin()
            self._residuals.append(residuals)
            self._marks.begin(self._extent)
            append_lines(self._descriptor, self._extent.size, lines, self._formed, more, self._marks)
            sync_data(self._descriptor, self._extent.size)
            self._marks.sync()
            self._watch.note_written()
        except OSError as error:
            self._take_back()
            raise LayerscopeError(
                f"{self.path} cannot be written: {error.strerror or error}. Its {self.lines} lines are whole.\n"
                "Make room (or mend the disk) and run the same command again; it goes on there."
            ) from error
        if more.lines and not self.lines:
            forget_aside(self.path)
        self._residuals.join()
        self._extent.join(more)
        self._totals = joined(self._totals, totals)
        if time.monotonic() - self._checkpointed > _CHECKPOINT_SECONDS:
            self.checkpoint()

    def is_taken_away(self) -> bool:
        """Whether the path is another file by now. May be asked all the time, also while lines are written."""
        return self._watch.sees_trouble(self._extent)

    def _expect_untouched(self, at_the_end: bool = False) -> None:
        """See `Watch.check`, after whose error nothing more is noted."""
        self._extent.residuals = self._residuals.digests
        try:
            self._watch.check(self._extent, self._manifest, at_the_end)
            self._residuals.expect_untouched(self._extent.lines)
        except LayerscopeError:
            self._known = False
            raise

    def rewrite(self, replacements: Iterable[Replacement]) -> None:
        """Replaces some lines in one atomic step: whoever reads, and whatever happens, the file is the old or the new.

        Their residuals change before that, and nothing is noted of any meanwhile: a run that goes on with a file in
        which such a line is still an error puts them back.

        Args:
            replacements: in ascending order.
        """
        self._expect_untouched()
        how = self._manifest.identity.packing, self._manifest.lists_lines
        if self._residuals.begin_replacing():
            self.checkpoint()
        try:
            with replacing(self.path, locked=False) as temporary:
                descriptor = open_locked(temporary)
                try:
                    made = copy_replaced(self.path, descriptor, replacements, self._formed, self._residuals, *how)
                    extent, unchanged = made
                    os.fsync(descriptor)
                    # Until the new file's extent is noted, only what both have in common may be held against either.
                    self.checkpoint()
                    self._marks.remove()
                    self._note(replace(self._manifest, progress=unchanged))
                except BaseException:
                    os.close(descriptor)
                    raise
        except OSError as error:
            raise LayerscopeError(f"{self.path} cannot be replaced: {error.strerror}. It is as it was.") from error
        os.close(self._descriptor)
        self._descriptor, self._extent, self._totals = descriptor, extent, None
        self._watch = Watch(self.path, descriptor)
        try:
            self._residuals.end_replacing()
            self.checkpoint()
            sync_folder(self.path.parent)
        except OSError as error:
            raise LayerscopeError(f"{self.path.parent} cannot be synced: {error.strerror}. Mend the disk.") from error

    @property
    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """Of whoever computed what is in the file."""
        return self._manifest.fingerprints

    def note_computed(
        self, halved: Iterable[int], fingerprints: Mapping[str, Fingerprint], clamped: Iterable[int] = ()
    ) -> None:
        """Notes how the lines that follow were computed; it is on the disk before they are.

        Args:
            halved: batches that did not fit the memory as a whole: their numbers may differ in the last digit.
            fingerprints: of all that computed for the file so far.
            clamped: batches with residuals beyond their number format.
        """
        self._manifest, self._unsaved = with_computed(self._manifest, halved, fingerprints, clamped), True

    def checkpoint(self) -> None:
        """Notes in the manifest how far the file goes and what its bytes hash to."""
        self._extent.residuals = self._residuals.digests
        try:
            self._note(replace(self._manifest, progress=self._progress()))
        except LayerscopeError:
            self._expect_untouched()  # a folder that is gone is another fault than a full disk
            raise
        self._checkpointed = time.monotonic()

    def _progress(self) -> Progress:
        noted = self._extent.note(self._manifest.lists_lines)
        return noted if self._totals is None else replace(noted, totals=self._totals.note(noted))

    def _note(self, manifest: Manifest) -> None:
        write_manifest(self.path, manifest)
        self._manifest, self._unsaved = manifest, False

    def close(self) -> None:
        """Notes the last state, unless something failed, and lets go of the lock."""
        if self._descriptor >= 0:
            try:
                if self._known:
                    self._expect_untouched(at_the_end=True)
                    self.checkpoint()
                    if self._manifest.lists_lines:
                        self._marks.remove()
                    elif self.lines:
                        self._marks.begin(self._extent)
            finally:
                self._residuals.close()
                self._marks.close()
                os.close(self._descriptor)
                self._descriptor = -1

    def recover(self, on_record: Callable[[Any], None], every: bool = True) -> int:
        """Reads what is there, and removes a torn last line; gives how many lines fit the plan and nothing notes them.

        Args:
            on_record: gets every record that is looked at.
            every: all of them are. Else the bytes of those that the manifest notes, and what they come to, are held
                against its digest and no more, if it notes what is needed.

        Raises:
            LayerscopeError: a line is not the record that belongs there, or was changed after it was written.
        """
        run, errors = self._read(self.path, on_record, every)
        try:
            self._residuals.recover(self._extent.lines, errors, self._manifest.progress)
            self._cut()
            os.fsync(self._descriptor)
            self._watch.note_written()
        except OSError as error:
            raise LayerscopeError(f"{self.path} cannot be written: {error.strerror}. It is as it was.") from error
        self._known = True
        return max(0, self.lines - run.covered)

    def _read(self, path: Path, on_record: Callable[[Any], None], every: bool) -> tuple[Run, list[int]]:
        """Reads what is there, see `recover`: which run it is, and which of its lines are errors."""
        run, errors = kind_of_file(self._manifest.identity)(path, self._manifest, RUNNING), list[int]()
        self._extent, totals = (Extent(run.manifest.progress), Totals()) if every else passed_over(run)
        self._totals = None if run.of_ablations else totals
        for number, (_, record) in enumerate(run.entries(to_go_on=True, extent=self._extent), self.lines):
            if isinstance(record, Unscored):
                errors.append(number)
            on_record(record)
            if self._totals is not None:
                self._totals.add_record(record)
        return run, errors

    def _take_back(self) -> None:
        self._known = False
        self._marks.close()  # it has more than the file: what is written next begins it anew
        with suppress(OSError):  # the next run removes the torn line
            self._cut()
            self._residuals.cut()

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._extent.size)
        os.lseek(self._descriptor, self._extent.size, os.SEEK_SET)


def open_journal(path: Path, identity: Identity, about: About, overwrite: bool) -> Journal:
    """Opens and locks the output file, new or to go on with.

    Args:
        identity: whatever decides the file's bytes; a file of another identity is refused.
        about: what else the manifest says of the run.

    Raises:
        UsageError: the file is there and was made with other settings, or was not made by layerscope.
        LayerscopeError: another run is on it, or it cannot be written.
    """
    descriptor = open_locked(path)
    try:
        if os.fstat(descriptor).st_size and overwrite:
            descriptor = put_aside(path, descriptor)
        fresh = not os.fstat(descriptor).st_size
        manifest = begun(path, identity, about) if fresh else manifest_to_go_on_with(path, identity, about)
        if not fresh and has_records(path):
            forget_aside(path)
        for file in (path, manifest_path(path), marks_path(path), order_path(path)):
            remove_leftovers(file)
    except OSError as error:
        os.close(descriptor)
        raise LayerscopeError(f"{path} cannot be opened to be written: {error.strerror or error}.") from error
    except BaseException:
        os.close(descriptor)
        raise
    return Journal(path, descriptor, manifest, known=fresh)
