"""Paths that people name, replacing a file as a whole, and what is on the disk."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerscope.errors import UsageError

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h


def user_path(text: str) -> Path:
    """A path as a person writes it, `~` included.

    Raises:
        UsageError: no file can have that name.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise UsageError(f"{text[:80]!r} cannot be a path: {reason}.") from error
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which then takes the place of `path`: whoever reads sees all of it or none.

    The temporary file is new and empty: a link that somebody planted under its name is removed, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[-100:]}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begin_sync(descriptor: int, start: int, size: int) -> None:
    """Has a part of a file brought to the disk while its writer goes on. Only on Linux; elsewhere nothing happens."""
    sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if sync_file_range is not None:
        sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


def sync_data(descriptor: int, start: int) -> None:
    """Waits until what was written from `start` on is on the disk, and then keeps none of it in memory.

    Else a long run fills all free memory with what nobody reads soon, and every page of it is a fresh one; given back,
    the same few pages are used again (on a virtual machine more than half of the time of writing).
    """
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(descriptor)  # which macOS lacks
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, 0, os.POSIX_FADV_DONTNEED)
