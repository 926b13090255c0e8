"""One run at a time on an output file: a lock that goes with the process, however it ends."""

import errno
import fcntl
import os
import time
from pathlib import Path

from layerscope.errors import LayerscopeError, TakenError, UsageError
from layerscope.records.storage.object_lock import is_held
from layerscope.records.storage.stored_run import StoredRun

_LOCK_SECONDS = 0.5


def is_locked(path: Path) -> bool:
    """Whether a run is on the file now."""
    if isinstance(path, StoredRun):
        return is_held(path)
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def open_locked(path: Path) -> int:
    """A descriptor of the file, made if it is not there, to read and write; the lock is held until it is closed.

    Raises:
        UsageError: it cannot be opened.
        TakenError: another run is on it.
        LayerscopeError: the file system knows no locks.
    """
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
                raise TakenError(
                    f"Another run is writing {path}. Wait for it, stop it, or name another --output-file."
                ) from None
            time.sleep(0.05)
        except OSError as error:
            os.close(descriptor)
            raise LayerscopeError(
                f"{path} cannot be locked ({error.strerror}), so two runs could spoil it. Use another file system."
            ) from error
        os.close(descriptor)
