"""The output file: ordered, append-only, locked while a run is on it, and the manifest beside it.

At every moment the file is a byte-prefix of the finished one, but for one torn last line after a crash, which the next
run removes. Knows nothing of what a record means beyond its `example_id`.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import begin_sync, remove_leftovers, replacing, sync_data, sync_folder, user_path
from layerscope.records.manifest import FORMAT, Extent, differences, manifest_path, read_manifest, write_manifest

_CHECKPOINT_SECONDS = 5.0
_LOCK_SECONDS = 0.5
_READ_BYTES = 1 << 20
_PIECES_AT_ONCE = 1024  # that one call writes: Linux's IOV_MAX
_SYNC_BYTES = 4 << 20  # after which the disk begins on what was written

Piece = bytes | memoryview
Line = bytes | Sequence[Piece]
"""One line of the file, its line end included: whole, or in pieces that follow one another, so that none is copied."""


def records_path(output_file: str) -> Path:
    """Where the lines go: the output file, or `x.jsonl` for `x.json`, which gets the array when the run is finished."""
    path = user_path(output_file).absolute()
    return path.with_suffix(".jsonl") if path.suffix == ".json" else path


class Journal:
    """The open output file of a run; made by `open_journal`, closed by leaving its `with` block."""

    def __init__(self, path: Path, descriptor: int, manifest: dict[str, Any], known: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._manifest = manifest
        self._extent = Extent()
        self._checkpointed = 0.0
        self._known = known  # the extent is that of the file: nothing else may be noted in the manifest

    @property
    def lines(self) -> int:
        """How many whole lines the file has."""
        return self._extent.lines

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, lines: Iterable[Line]) -> None:
        """Writes whole lines and waits until they are on the disk.

        Raises:
            LayerscopeError: they cannot be written or synced; the file then ends where it ended before.
        """
        more = self._extent.ahead()
        try:
            self._write_lines(lines, more)
            sync_data(self._descriptor, self._extent.size)
        except OSError as error:
            self._take_back()
            raise LayerscopeError(
                f"{self.path} cannot be written: {error.strerror or error}. Its {self.lines} lines are whole.\n"
                "Make room (or mend the disk) and run the same command again; it goes on there."
            ) from error
        if more.lines and not self.lines:
            _forget_aside(self.path)
        self._extent.join(more)
        if time.monotonic() - self._checkpointed > _CHECKPOINT_SECONDS:
            self.checkpoint()

    def _write_lines(self, lines: Iterable[Line], more: Extent) -> None:
        begun = 0
        for line in lines:
            pieces = [line] if isinstance(line, bytes) else line
            _write(self._descriptor, pieces)
            more.add(*pieces)  # while the line is in the processor's cache
            if more.size - begun > _SYNC_BYTES:
                begin_sync(self._descriptor, self._extent.size + begun, more.size - begun)
                begun = more.size

    def rewrite(self, replacements: Iterable[tuple[int, bytes]]) -> None:
        """Replaces some lines in one atomic step: whoever reads, and whatever happens, the file is the old or the new.

        Args:
            replacements: numbers from 0, ascending, and whole lines.
        """
        try:
            with replacing(self.path, locked=False) as temporary:
                descriptor = _open_locked(temporary)
                try:
                    extent, unchanged = self._copy(descriptor, replacements)
                    os.fsync(descriptor)
                    # Until the new file's extent is noted, only what both have in common may be held against either.
                    self._note({**self._manifest, "progress": unchanged})
                except BaseException:
                    os.close(descriptor)
                    raise
        except OSError as error:
            raise LayerscopeError(f"{self.path} cannot be replaced: {error.strerror}. It is as it was.") from error
        os.close(self._descriptor)
        self._descriptor, self._extent = descriptor, extent
        self.checkpoint()
        try:
            sync_folder(self.path.parent)
        except OSError as error:
            raise LayerscopeError(f"{self.path.parent} cannot be synced: {error.strerror}. Mend the disk.") from error

    def _copy(self, descriptor: int, replacements: Iterable[tuple[int, bytes]]) -> tuple[Extent, dict[str, Any]]:
        """Copies the file, some lines replaced: the copy's extent, and the note of what comes before the first one."""
        wanted = iter(replacements)
        number, replacement = next(wanted, (-1, b""))
        extent = Extent()
        unchanged = None
        for line in read_lines(self.path):
            if extent.lines == number:
                unchanged = unchanged or extent.note()
                line = replacement
                number, replacement = next(wanted, (-1, b""))
            _write(descriptor, [line])
            extent.add(line)
        return extent, unchanged or extent.note()

    def note_halved(self, batch: int) -> None:
        """Notes that a batch did not fit the memory as a whole: its numbers may differ in the last digit."""
        self._manifest = {**self._manifest, "halved_batches": [*self._manifest.get("halved_batches", []), batch]}

    def checkpoint(self) -> None:
        """Notes in the manifest how far the file goes and what its bytes hash to."""
        self._note({**self._manifest, "progress": self._extent.note()})
        self._checkpointed = time.monotonic()

    def _note(self, manifest: dict[str, Any]) -> None:
        write_manifest(self.path, manifest)
        self._manifest = manifest

    def close(self) -> None:
        """Notes the last state, unless something failed, and lets go of the lock."""
        if self._descriptor >= 0:
            try:
                if self._known:
                    self.checkpoint()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def recover(self, order: NDArray[np.int64], on_record: Callable[[dict[str, Any]], None]) -> None:
        """Reads what is there, removes a torn last line, and checks every record against the plan.

        Args:
            order: the `example_id` of every line of the finished file.
            on_record: gets every record.

        Raises:
            LayerscopeError: a line is not the record that belongs there, or was changed after it was written.
        """
        noted = self._manifest.get("progress", {})
        self._extent = Extent(noted)
        for line in read_lines(self.path):
            self._extent.add(line)
            try:
                record = orjson.loads(line)
                if self.lines > len(order) or record["example_id"] != order[self.lines - 1]:
                    raise ValueError
                if not self._extent.agrees(noted):
                    raise ValueError
                on_record(record)
            except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
                raise LayerscopeError(
                    f"{self.path}: line {self.lines} is not what this run wrote there, so it cannot go on.\n"
                    "Restore the file, name another with --output-file, or start anew with --overwrite."
                ) from error
        try:
            self._cut()
            os.fsync(self._descriptor)
        except OSError as error:
            raise LayerscopeError(f"{self.path} cannot be written: {error.strerror}. It is as it was.") from error
        self._known = True

    def _take_back(self) -> None:
        self._known = False
        with suppress(OSError):  # the next run removes the torn line
            self._cut()

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._extent.size)
        os.lseek(self._descriptor, self._extent.size, os.SEEK_SET)


def open_journal(path: Path, identity: dict[str, Any], about: dict[str, Any], overwrite: bool) -> Journal:
    """Opens and locks the output file, new or to go on with.

    Args:
        identity: whatever decides the file's bytes; a file of another identity is refused.
        about: what else the manifest says of the run.

    Raises:
        UsageError: the file is there and was made with other settings, or was not made by layerscope.
        LayerscopeError: another run is on it, or it cannot be written.
    """
    manifest: dict[str, Any] = {"format": FORMAT, "identity": identity, "about": about}
    descriptor = _open_locked(path)
    try:
        if os.fstat(descriptor).st_size and overwrite:
            descriptor = _put_aside(path, descriptor)
        fresh = not os.fstat(descriptor).st_size
        if fresh:
            write_manifest(path, manifest)
            sync_folder(path.parent)
        else:
            manifest = read_manifest(path)
            if differing := differences(manifest["identity"], identity):
                raise UsageError(
                    f"{path} was made with other settings: {'; '.join(differing)}.\n"
                    "Use the settings it was made with, name another --output-file, or start anew with --overwrite."
                )
            if _has_records(path):
                _forget_aside(path)
        for file in (path, manifest_path(path)):
            remove_leftovers(file)
    except OSError as error:
        os.close(descriptor)
        raise LayerscopeError(f"{path} cannot be opened to be written: {error.strerror or error}.") from error
    except BaseException:
        os.close(descriptor)
        raise
    return Journal(path, descriptor, manifest, known=fresh)


def _put_aside(path: Path, descriptor: int) -> int:
    """Moves records and manifest aside until the new file has its first record; gives the new, empty file, locked.

    May be cut off anywhere and called again: the last file that had a record, and its manifest, are what stands aside.
    """
    aside, manifest_aside = _aside(path)
    if aside.exists() and not aside.samefile(path):
        if not _has_records(path):
            os.ftruncate(descriptor, 0)
            return descriptor
        _forget_aside(path)
    with replacing(path, locked=False) as new:  # never a moment in which somebody else could make the file
        fresh = _open_locked(new)
        try:
            if not aside.exists():
                if manifest_path(path).exists():
                    manifest_path(path).replace(manifest_aside)  # first: without it nobody goes on with the records
                os.link(path, aside)
        except BaseException:
            os.close(fresh)
            raise
    os.close(descriptor)
    return fresh


def _has_records(path: Path) -> bool:
    return next(read_lines(path), None) is not None


def _forget_aside(path: Path) -> None:
    for aside in _aside(path):
        aside.unlink(missing_ok=True)


def is_locked(path: Path) -> bool:
    """Whether a run is on the file now."""
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file, each with its line end; a torn last one is left out."""
    with path.open("rb", buffering=_READ_BYTES) as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return  # a run may write the rest of it now, which is no line of its own
            yield line


def write_array(path: Path, array_path: Path, lines: Iterable[bytes] | None = None) -> None:
    """Writes the records of a file as one JSON array, in one atomic step.

    Args:
        lines: of the file, from whoever looks at them on the way.
    """
    try:
        with replacing(array_path) as temporary, temporary.open("wb") as stream:
            separator = b"[\n"
            for line in lines or read_lines(path):
                stream.write(separator + line[:-1])
                separator = b",\n"
            stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise LayerscopeError(
            f"{array_path} cannot be written: {error.strerror or error}. All records are in {path.name}.\n"
            "Make room and run the same command again; it only writes the array."
        ) from error


def _aside(path: Path) -> tuple[Path, Path]:
    """Where `--overwrite` keeps the records and the manifest that were there, until the first new record."""
    return path.with_name(path.name + ".overwritten"), path.with_name(path.name + ".overwritten.manifest.json")


def _write(descriptor: int, pieces: Sequence[Piece]) -> None:
    """Writes pieces one after the other."""
    views = [memoryview(piece) for piece in pieces]
    while views:
        written = os.writev(descriptor, views[:_PIECES_AT_ONCE])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]


def _open_locked(path: Path) -> int:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise UsageError(f"{path} cannot be written: {reason}. Name another --output-file.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever replaced the file between opening and locking left us with the wrong one.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:  # `layerscope status` holds it for a moment
                os.close(descriptor)
                raise LayerscopeError(
                    f"Another run is writing {path}. Wait for it, stop it, or name another --output-file."
                ) from None
            time.sleep(0.05)
        except OSError as error:
            os.close(descriptor)
            raise LayerscopeError(
                f"{path} cannot be locked ({error.strerror}), so two runs could spoil it. Use another file system."
            ) from error
        os.close(descriptor)
