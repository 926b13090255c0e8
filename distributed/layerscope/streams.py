"""Standard output and error that outlive who reads them: a command ends as its work did, not as its last line did.

A pipe that closes (`| head`), a terminal that hangs up and a log on a full disk take what is told, nothing else.
"""

import codecs
import errno
import io
import os
import select
import sys
import time
from typing import Any

_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN})  # nobody reads any more
_WIPE = b"\r\x1b[K"
_UNENCODABLE = "layerscope.unencodable"


class _Outlet(io.FileIO):
    """A stream of which no failure to write reaches whoever writes."""

    lost: OSError | None = None
    """Why something was not written though there is a place for it, such as a full disk."""
    written_at = 0.0
    """When something was last written to any of them."""
    unfinished = False
    """A line on the terminal says what is waited for, and has no end yet."""
    ended = False
    """Nothing is waited for any more."""

    def write(self, data: Any) -> int:
        _Outlet.written_at = time.monotonic()
        try:
            if _Outlet.unfinished and self.isatty():
                _Outlet.unfinished = False
                super().write(_WIPE)
            while (written := super().write(data)) is None:  # somebody made the pipe non-blocking, and it is full
                select.select([], [self.fileno()], [])
        except OSError as error:
            hung_up = error.errno == errno.EIO and self.isatty()
            if error.errno not in _GONE and not hung_up:
                self.lost = error
            return len(data)
        return written


def outlive_readers() -> None:
    """Has what is printed from now on reach its reader if there is one, in characters that the stream can encode.

    To be called first: a standard stream that is closed leaves its number to the next file that is opened, which would
    then be written to by whatever prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            stream = os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    codecs.register_error(_UNENCODABLE, _escaped)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            raw = _Outlet(stream.fileno(), "w", closefd=False)
        except (AttributeError, OSError):
            continue  # whoever calls has put something of his own there
        errors = stream.errors if stream.errors == "surrogateescape" else _UNENCODABLE
        per_line = name == "stderr" or stream.isatty()
        text = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, errors, line_buffering=per_line)
        setattr(sys, name, text)


def lost_output() -> OSError | None:
    """Writes what is still to be written; gives why some of it could not be, though somebody wants it."""
    lost, _Outlet.ended = None, True
    if _Outlet.unfinished:
        sys.stderr.write("\r")
    for stream in (sys.stderr, sys.stdout):
        stream.flush()
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        lost = raw.lost if isinstance(raw, _Outlet) else lost
    return lost


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""A character that the stream cannot encode, as JSON writes it too: \u00e9."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end
