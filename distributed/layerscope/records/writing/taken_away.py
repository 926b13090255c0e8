"""An output file that somebody takes away from the run that writes it: what is the matter, and what can be saved."""

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from layerscope.errors import LayerscopeError
from layerscope.files import replacing
from layerscope.formatting import shell_word
from layerscope.records.manifest.manifest import Manifest, write_manifest
from layerscope.records.reading.stretches import NotAFrameError, read_stretches
from layerscope.records.writing.extent import Extent

_LOOK_SECONDS = 2.0  # between two looks of a run that waits for a batch
_REREAD_SHARE = 0.05  # of a run's time at most, where a file system changes a file's times by itself


class Watch:
    """Looks whether a path is still the file that a run has open, with what it wrote and nothing else."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._looked = self._reread_at = 0.0
        self.note_written()

    def note_written(self) -> None:
        """Notes that whatever changed in the file was the run's own doing."""
        self._changed_ns = os.fstat(self._descriptor).st_ctime_ns

    def sees_trouble(self, extent: Extent) -> bool:
        """Whether the path is another file, or a shorter one than `extent`; asked all the time, it looks seldom."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return bool(_trouble(self._path, self._descriptor, extent.size))

    def check(self, extent: Extent, manifest: Manifest, at_the_end: bool) -> None:
        """Looks closely, between two writes.

        Raises:
            LayerscopeError: what happened, and where what is still held open was saved, with its manifest.
        """
        path = self._path
        what = _trouble(path, self._descriptor, extent.size, extent.size)
        if not what and not self._is_edited(extent, at_the_end):
            return
        noted = replace(manifest, progress=extent.note(manifest.lists_lines))
        if not what:
            write_manifest(path, noted)  # so that whoever reads or goes on finds the line
            raise LayerscopeError(
                f"{path} was edited by somebody else while a run was writing it. The run stops.\n"
                "Bring back what was there (layerscope verify names the line) and run again, or use --overwrite."
            )
        told = f"{path} {what}: somebody took it away from the run that was writing it. The run stops.\n"
        if os.fstat(self._descriptor).st_size < extent.size:
            raise LayerscopeError(f"{told}Run the same command again: it goes on behind the lines that are left.")
        there = _save(path, self._descriptor)
        if there is None:
            raise LayerscopeError(f"{told}Its {extent.lines} lines could not be saved. Run again to start anew.")
        write_manifest(there, noted)
        where = "" if there == path else f" with --output-file {shell_word(str(there))}"
        raise LayerscopeError(f"{told}Its {extent.lines} lines are in {there}. To go on, run the same command{where}.")

    def _is_edited(self, extent: Extent, at_the_end: bool) -> bool:
        """Whether the file's bytes are others than were written; read where the file system tells of a change."""
        changed_ns, begun = os.fstat(self._descriptor).st_ctime_ns, time.monotonic()
        if changed_ns == self._changed_ns or (begun < self._reread_at and not at_the_end):
            return False
        noted = extent.note(listed=False)
        found = Extent(noted)
        with suppress(NotAFrameError):  # whose place is then an end
            for stretch in read_stretches(self._path):
                found.add(*stretch.raw, lines=stretch.n_lines)
        self._changed_ns = changed_ns
        self._reread_at = time.monotonic() + (time.monotonic() - begun) / _REREAD_SHARE
        return found.note(listed=False) != noted


def _trouble(path: Path, descriptor: int, least: int, most: int | None = None) -> str:
    """Why a path is not the open file with what was written to it; empty where it is.

    Args:
        least, most: bytes that it has at least, and at most (None while it is written to).
    """
    held = os.fstat(descriptor)
    try:
        named = path.stat()
    except OSError as error:
        return f"is not there any more ({error.strerror})"
    if not os.path.samestat(held, named):
        return "is another file now"
    if held.st_size < least or (most is not None and held.st_size > most):
        return f"has {held.st_size:,} bytes, and {least:,} were written"
    return ""


def _save(path: Path, descriptor: int) -> Path | None:
    """Where the open file lies by now; one that was deleted is copied to its path, or near it, whatever is free.

    Returns:
        None where it cannot be found, or not be copied.
    """
    if os.fstat(descriptor).st_nlink:
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{descriptor}").readlink()  # of Linux alone
            if os.path.samestat(moved.stat(), os.fstat(descriptor)):
                return moved
        return None
    folder = next(folder for folder in path.parents if folder.is_dir())
    target = folder / path.name
    if folder != path.parent or os.path.lexists(target):
        target = folder / f"{path.stem[:100]}.saved-{secrets.token_hex(4)}{path.suffix}"
    with suppress(OSError), os.fdopen(os.dup(descriptor), "rb") as held:
        held.seek(0)
        with replacing(target) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(held, copy)
        return target
    return None
