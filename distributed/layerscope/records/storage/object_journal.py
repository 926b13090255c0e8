"""The output of a run in object storage: numbered parts that never change, the manifest, and a lock.

What is there is a prefix of the finished run in whole parts. What is not a whole part yet is held in memory, and lies
there as the part's beginning once a minute and when a run is stopped; a run that is killed computes at most that again.
A part ends with the first batch that makes it `PART_BYTES` long, so that no part depends on when it was written.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.ablations import kind_of_file
from layerscope.records.manifest.differences import manifest_to_go_on_with
from layerscope.records.manifest.identity import Identity
from layerscope.records.manifest.manifest import About, Manifest, write_manifest
from layerscope.records.manifest.order import order_path
from layerscope.records.storage import object_store
from layerscope.records.storage.object_lock import ObjectLock
from layerscope.records.storage.stored_run import Part, StoredRun
from layerscope.records.totals import Totals
from layerscope.records.writing.appending import Line, former
from layerscope.records.writing.extent import Extent
from layerscope.records.writing.going_on import begun, joined
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.packing import METHODS, Packed
from layerscope.records.writing.replacing import Replacement
from layerscope.records.writing.residual_files import NO_ROWS, ResidualRows

PART_BYTES = 64 << 20
_REST_SECONDS = 60.0


class ObjectJournal(Journal):
    """The same as a `Journal`, of a folder in object storage; made by `open_output`."""

    path: StoredRun

    def __init__(self, path: StoredRun, lock: ObjectLock, manifest: Manifest) -> None:
        self.path = path
        self._lock = lock
        self._manifest = self._noted = manifest
        self._extent = Extent()
        self._known = self._unsaved = False
        self._formed = former(manifest.format)
        self._totals = None if kind_of_file(manifest.identity).of_ablations else Totals()
        self._parts = 0
        self._rest = bytearray()
        """What follows the whole parts."""
        self._rest_there = 0
        """How much of it lies in the store."""
        self._rest_put = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "upload")
        self._on_its_way: Future[None] | None = None

    def append(
        self,
        lines: Iterable[Line],
        residuals: ResidualRows = NO_ROWS,  # noqa: ARG002 - none are kept
        totals: Totals | None = None,
    ) -> None:
        """Takes whole lines, and begins to upload them once they make a part.

        Raises:
            LayerscopeError: those before them cannot be written, or another run has taken the folder over.
        """
        self._totals = joined(self._totals, totals)
        for line in lines:
            pieces = self._formed(line)
            self._extent.add(*pieces, lines=line.lines if isinstance(line, Packed) else 1)
            for piece in pieces:
                self._rest += piece
            finished = self._extent.lines == self._manifest.identity.plan.questions
            if finished or (len(self._rest) >= PART_BYTES and self._ends_batch()):
                self._end_part()
        if time.monotonic() - self._rest_put > _REST_SECONDS and (self._on_its_way is None or self._on_its_way.done()):
            self._begin(self._put_rest, bytes(self._rest), self._manifest_now())

    def is_taken_away(self) -> bool:
        return self._lock.lost

    def rewrite(self, replacements: Iterable[Replacement]) -> None:  # noqa: ARG002
        raise UsageError(f"{self.path}: what lies in object storage is not replaced.")

    def checkpoint(self) -> None:
        """Brings what is not a whole part yet to the store, and waits for it."""
        self._begin(self._put_rest, bytes(self._rest), self._manifest_now())
        self._flush()

    def close(self) -> None:
        try:
            if self._known:
                self._expect_ours()
                self.checkpoint()
        finally:
            self._known = False
            self._thread.shutdown()
            self._lock.release()

    def recover(self, on_record: Callable[[Any], None], every: bool = True) -> int:
        path = StoredRun(self.path)  # which has nothing of what was there before
        self._read(path, on_record, every)
        there = path.parts_there()
        size = sum(part.size for part in there if part.whole)
        if self._extent.size < size:
            raise LayerscopeError(
                f"{self.path}: {self._torn(there)} does not end with a whole line. Another tool wrote it.\n"
                "Restore it, or remove it and what follows it; the run goes on behind what is left."
            )
        self._parts = sum(part.whole for part in there)
        if self._extent.size > size:
            with path.open() as stream:
                stream.seek(size)
                self._rest += stream.read(self._extent.size - size)
        _remove_rests(path, there)
        self._rest_there, self._known = len(self._rest), True
        return 0  # what the manifest does not note yet fits the plan, in a part that nobody changes

    def _torn(self, there: list[Part]) -> str:
        end = 0
        for part in there:
            end += part.size
            if end > self._extent.size:
                return part.name
        return there[-1].name

    def _ends_batch(self) -> bool:
        ends = self._manifest.about.batch_ends
        place = bisect_left(ends, self._extent.lines)
        return self._manifest.packed or not ends or (place < len(ends) and ends[place] == self._extent.lines)

    def _manifest_now(self) -> Manifest:
        return replace(self._manifest, progress=self._progress())

    def _end_part(self) -> None:
        data = bytes(self._rest)
        self._rest.clear()
        self._begin(self._put_part, self._parts, data, self._manifest_now())
        self._parts += 1

    def _begin(self, put: Callable[..., None], *arguments: Any) -> None:
        """Has something put once what is before it is there; holds one part and the next."""
        self._flush()
        self._on_its_way = self._thread.submit(put, *arguments)
        self._rest_put = time.monotonic()

    def _flush(self) -> None:
        on_its_way, self._on_its_way = self._on_its_way, None
        try:
            if on_its_way is not None:
                on_its_way.result()
            self._expect_ours()
        except BaseException:
            self._known = False
            raise

    def _put_part(self, number: int, data: bytes, manifest: Manifest) -> None:
        """In the thread of uploads, as `_put_rest`: makes the part, then notes it."""
        self._expect_ours(look=True)
        self._note_computed(manifest)
        address = str(self.path.part(self._name("part", number)))
        if not object_store.put_new(address, data, object_store.WRITE_SECONDS):
            raise LayerscopeError(
                f"{address} is there already, with other bytes: another run wrote it. This one stops.\n"
                "Run `layerscope verify` on the folder, or name another --output-file."
            )
        self._note(manifest)
        if self._rest_there:
            object_store.remove(str(self.path.part(self._name("rest", number))))
            self._rest_there = 0

    def _put_rest(self, data: bytes, manifest: Manifest) -> None:
        self._expect_ours(look=True)
        if len(data) > self._rest_there:
            self._note_computed(manifest)
            address = str(self.path.part(self._name("rest", self._parts)))
            object_store.put(address, data, object_store.WRITE_SECONDS)
            self._rest_there = len(data)
        self._note(manifest)

    def _note_computed(self, manifest: Manifest) -> None:
        """Notes how lines were computed before they are there."""
        if replace(manifest, progress=self._noted.progress) != self._noted:
            self._note(replace(manifest, progress=self._noted.progress))

    def _note(self, manifest: Manifest) -> None:
        if manifest != self._noted:
            write_manifest(self.path, manifest)
            self._noted = manifest

    def _name(self, kind: str, number: int) -> str:
        packing = self._manifest.identity.packing
        return f"{kind}-{number:05d}.jsonl{METHODS[packing.method].suffix if packing else ''}"

    def _expect_ours(self, look: bool = False) -> None:
        if look:
            self._lock.look()
        if self._lock.lost:
            raise LayerscopeError(
                f"Another run has taken {self.path} over: this one did not renew its lock for a while. It stops.\n"
                "What it wrote is whole, and the other goes on behind it."
            )


def open_output(path: Path, identity: Identity, about: About, overwrite: bool) -> Journal:
    """Opens and locks the output of a run, new or to go on with, wherever it lies: see `open_journal`.

    Raises:
        UsageError, LayerscopeError: as `open_journal`; or the store does not answer, or refuses.
    """
    if not isinstance(path, StoredRun):
        return open_journal(path, identity, about, overwrite)
    lock = ObjectLock.take(path)
    try:
        if overwrite:
            _remove_run(path)
        opened = manifest_to_go_on_with if path.parts_there() else begun
        return ObjectJournal(path, lock, opened(path, identity, about))
    except BaseException:
        lock.release()
        raise


def _remove_run(path: StoredRun) -> None:
    """Removes parts, the last first, so that what is left if it is cut off can be gone on with; then the manifest."""
    for part in reversed(path.parts_there()):
        object_store.remove(str(path.part(part.name)))
    _remove_rests(path, [])
    object_store.remove(str(order_path(path)))
    object_store.remove(str(path.manifest))


def _remove_rests(path: StoredRun, there: list[Part]) -> None:
    """Removes beginnings of parts, but for one among these: a writer was killed when their parts were there."""
    for name, _ in path.objects():
        if name.startswith("rest-") and name not in [part.name for part in there]:
            object_store.remove(str(path.part(name)))
