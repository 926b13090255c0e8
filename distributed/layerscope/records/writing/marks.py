"""The marks beside an output file that is written: they tell which line behind the manifest's last note was changed.

The manifest is noted every few seconds, and a run that is killed leaves lines behind it. `NAME.marks` has an entry
for every line (of compressed lines, for every batch of them), the mark and a check of the entry itself. An entry is
written before its line, so that no line of a killed process lacks one, and is on the disk when the line counts as
written. A torn last entry is normal, a missing file too (the first files had none): what lies behind it is then held
against the plan alone. It goes when the manifest notes the file's end.
"""

import os
from pathlib import Path
from typing import Final

import numpy as np
import xxhash
from msgspec import UNSET, UnsetType

from layerscope.errors import LayerscopeError, remedy
from layerscope.files import read_plain, replacing, sync_data, write_pieces
from layerscope.records.manifest.noted import Progress
from layerscope.records.storage.stored_run import StoredRun
from layerscope.records.writing.extent import MARK_BYTES, Extent

HEADER: Final = b"layerscope marks 1\n"
_ENTRY_BYTES = 2 * MARK_BYTES


def marks_path(path: Path) -> Path:
    """Where the marks of an output file lie."""
    return path.with_name(path.name + ".marks")


def is_marks(path: Path) -> bool:
    """Whether a run wrote this file of marks, if only its beginning."""
    with path.open("rb") as stream:
        beginning = stream.read(len(HEADER))
    return HEADER.startswith(beginning)


def read_marks(path: Path, noted: Progress | UnsetType) -> bytes:
    """The marks of an output file's lines, those that the manifest notes among them; empty where there are none.

    Args:
        noted: what the manifest says. Marks that say otherwise of a line are those of another file.

    Raises:
        LayerscopeError: they cannot be read.
    """
    if isinstance(path, StoredRun):  # whose parts never change
        return b""
    beside = marks_path(path)
    try:
        content = read_plain(beside)
    except FileNotFoundError:
        return b""
    except OSError as error:
        told = remedy(error, f"Make it readable, as {path} is.")
        raise LayerscopeError(f"{beside} cannot be read: {error.strerror}. {told}") from error
    if not content.startswith(HEADER):
        return b""
    whole = (len(content) - len(HEADER)) // _ENTRY_BYTES
    entries = np.frombuffer(content, np.uint32, 2 * whole, len(HEADER)).reshape(whole, 2)
    marks = entries[:, 0].tobytes()
    known = 0 if noted is UNSET else noted.marks
    common = MARK_BYTES * min(known, whole)
    if noted is not UNSET and marks[:common].hex(" ", -MARK_BYTES) != noted.running[: max(0, 9 * common // 4 - 1)]:
        return b""
    for number in range(known, whole):
        mark = marks[MARK_BYTES * number : MARK_BYTES * (number + 1)]
        if _entry(number, mark)[MARK_BYTES:] != entries[number, 1].tobytes():  # the power failed before it was there
            return marks[: MARK_BYTES * number]
    return marks


class Marks:
    """The file of marks as the run that writes it has it."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the output file.
        """
        self._path = marks_path(path)
        self._descriptor = -1
        self._written = 0

    def begin(self, extent: Extent) -> None:
        """Takes the place of what was there with the marks of all lines so far, unless it has; raises OSError."""
        if self._descriptor >= 0:
            return
        marks = extent.marks
        with replacing(self._path) as temporary, temporary.open("wb") as stream:
            stream.write(HEADER)
            for number in range(extent.stretches):
                stream.write(_entry(number, marks[MARK_BYTES * number : MARK_BYTES * (number + 1)]))
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._written = extent.stretches

    def add(self, mark: bytes) -> None:
        """Writes the mark of the next stretch; raises OSError."""
        write_pieces(self._descriptor, [_entry(self._written, mark)])
        self._written += 1

    def sync(self) -> None:
        """Waits until they are on the disk; raises OSError."""
        sync_data(self._descriptor, 0)

    def remove(self) -> None:
        """Removes the file: the manifest notes all lines, or they are about to be others; raises OSError."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the file, which stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _entry(number: int, mark: bytes) -> bytes:
    return mark + xxhash.xxh3_64_digest(number.to_bytes(8, "little") + mark)[:MARK_BYTES]
