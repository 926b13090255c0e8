"""Paths that people name, replacing a file as a whole, and what is on the disk."""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from layerscope.errors import UsageError, remedy

COMPRESSED = frozenset((".gz", ".bz2", ".xz", ".lzma", ".zst", ".lz4", ".br", ".zip", ".7z", ".z"))
"""Suffixes of names that promise compressed content."""
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_NAME_BYTES = 200  # of a name that a temporary one repeats; file systems take 255 in all
_ABANDONED_SECONDS = 60.0
_PIECES_AT_ONCE = 1024  # that one call writes: Linux's IOV_MAX

Piece = bytes | memoryview


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path as a person writes it, `~` included.

    Raises:
        UsageError: no file can have that name, or this user may not look whether there is one.
    """
    try:
        path = Path(text).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
    except PermissionError as error:
        raise UsageError(f"{path} cannot be looked at: {error.strerror}.\n{remedy(error, '')}") from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        named = text[:80] if isinstance(text, str | bytes) else text
        raise UsageError(f"{repr(named)[:90]} cannot be a path: {reason}.") from error
    return path


def names_in(folder: Path) -> list[str]:
    """What is in a folder, for a message about what is not; nothing where it cannot be looked into."""
    try:
        return sorted(each.name for each in islice(folder.iterdir(), 1000))
    except OSError:
        return []


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """The descriptor of a plain file that others may have put there; a pipe under its name would be waited for.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a folder.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def read_plain(path: Path) -> bytes:
    """The content of a plain file; raises OSError for everything else."""
    with os.fdopen(open_plain(path), "rb") as stream:
        return stream.read()


@contextmanager
def replacing(path: Path, locked: bool = True) -> Iterator[Path]:
    """A temporary path to write to, which then takes the place of `path`: whoever reads sees all of it or none.

    The temporary file is new and empty, under a name that nobody can have planted. Before it takes the place it is on
    the disk, with the mode of what it replaces, or the one that the umask gives, whatever mode its writer left.

    Args:
        locked: the file is locked meanwhile, which tells `remove_leftovers` that somebody is on it; False for whoever
            locks it himself.
    """
    temporary = path.with_name(f"{_beginning(path)}{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        mode = os.fstat(descriptor).st_mode
        with suppress(OSError):  # a file system without locks has no leftovers removed either
            if locked:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode
        _settle(temporary, stat.S_IMODE(mode))
        temporary.replace(path)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Removes what `replacing` left for exactly this file when its process was killed; what is in use is locked."""
    name = re.compile(re.escape(_beginning(path)) + r"[0-9a-f]{16}\.tmp")
    with os.scandir(path.parent) as entries:
        leftovers = [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
    for leftover in leftovers:
        with suppress(OSError):  # gone meanwhile, or somebody else's
            _remove_if_abandoned(leftover)


def _remove_if_abandoned(leftover: Path) -> None:
    """Removes a file that nobody has locked; one that is new may be about to be locked."""
    descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_SECONDS:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()
    finally:
        os.close(descriptor)


def _beginning(path: Path) -> str:
    """How the names of temporary files for a path begin; no two paths of a folder share one."""
    name = path.name
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


def _settle(file: Path, mode: int) -> None:
    """Gives a finished file its mode and waits until it is on the disk."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_pieces(descriptor: int, pieces: Sequence[Piece]) -> None:
    """Writes pieces one after the other."""
    views = [memoryview(piece) for piece in pieces]
    while views:
        written = os.writev(descriptor, views[:_PIECES_AT_ONCE])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]


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
