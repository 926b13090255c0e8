"""How far a file goes, and a mark after every line, or batch of compressed lines: it tells which was changed later."""

import hashlib
from pathlib import Path
from typing import Final, Protocol, Self

import xxhash
from msgspec import UNSET, UnsetType

from layerscope.records.manifest.noted import Progress

MARK_BYTES: Final = 4
_READ_BYTES: Final = 1 << 20


class _Digest(Protocol):
    """What hashlib and xxhash have in common."""

    @property
    def name(self) -> str: ...
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


class Extent:
    """How far a file goes: its lines, its bytes, and a running digest of which four bytes are kept after every stretch.

    They tell which line was changed later, at four bytes a line; the compressed lines of a batch have one mark. The
    digest is XXH3: against damage, not against somebody who would write the manifest anew as well, and at a thirtieth
    of SHA-256's time.
    """

    def __init__(self, noted: Progress | UnsetType = UNSET) -> None:
        self.lines = 0
        self.size = 0
        # The first files had SHA-256, and stay with it.
        first_kind = noted is not UNSET and noted.sha256 is not UNSET
        self._digest: _Digest = hashlib.sha256() if first_kind else xxhash.xxh3_128()
        self._marks = bytearray()
        self.residuals: dict[int, str] | UnsetType | None = UNSET if noted is UNSET else noted.residuals
        """What is to be noted of the residuals of these lines."""

    def add(self, *pieces: bytes | memoryview, lines: int = 1) -> None:
        """Counts one more stretch, whole or in pieces that follow one another.

        Args:
            lines: that it holds.
        """
        self.lines += lines
        for piece in pieces:
            self.size += len(piece)
            self._digest.update(piece)
        self._marks += self._digest.digest()[:MARK_BYTES]

    @property
    def stretches(self) -> int:
        """How many there are."""
        return len(self._marks) // MARK_BYTES

    @property
    def marks(self) -> bytes:
        """Of all stretches, end to end."""
        return bytes(self._marks)

    @property
    def last_mark(self) -> bytes:
        return bytes(self._marks[-MARK_BYTES:])

    def ahead(self) -> "Extent":
        """An extent of what is about to follow, to be joined once it is sure to stay."""
        more = Extent()
        more._digest = self._digest.copy()
        return more

    def join(self, more: "Extent") -> None:
        """Goes on with what `ahead` gave."""
        self.lines += more.lines
        self.size += more.size
        self._digest = more._digest
        self._marks += more._marks

    def note(self, listed: bool = True) -> Progress:
        """What the manifest keeps.

        Args:
            listed: the marks too.
        """
        first_kind = self._digest.name == "sha256"
        return Progress(
            lines=self.lines,
            bytes=self.size,
            running=self._marks.hex(" ", -MARK_BYTES) if listed else "",
            residuals=self.residuals,
            xxh3_128=UNSET if first_kind else self._digest.hexdigest(),
            sha256=self._digest.hexdigest() if first_kind else UNSET,
        )

    def pass_over(self, path: Path, noted: Progress, marks: bytes) -> bool:
        """Goes to the end of what is noted of a file, without a look at its lines; whether these bytes are those noted.

        Args:
            marks: of these stretches, end to end.
        """
        with path.open("rb", buffering=0) as stream:
            left, buffer = noted.bytes, memoryview(bytearray(_READ_BYTES))
            while left and (count := stream.readinto(buffer[: min(left, _READ_BYTES)])):
                self._digest.update(buffer[:count])
                left -= count
        self.lines, self.size, self._marks = noted.lines, noted.bytes, bytearray(marks)
        return not left and self._digest.hexdigest() == noted.digest

    def agrees(self, noted: Progress | UnsetType, marks: bytes) -> bool:
        """Whether the last stretch is the one that was written there; true behind all that is known.

        Args:
            noted: what the manifest notes.
            marks: of these stretches and more, end to end.
        """
        number = self.stretches
        if noted is not UNSET and number <= noted.marks:
            return noted.running[9 * (number - 1) : 9 * number - 1] == self.last_mark.hex()
        if noted is not UNSET and self.lines == noted.lines and self._digest.hexdigest() != noted.digest:
            return False
        mark = marks[MARK_BYTES * (number - 1) : MARK_BYTES * number]
        return mark in (b"", self.last_mark)

    def differs(self, first: int, noted: Progress | UnsetType, marks: bytes) -> str:
        """What it says of the lines of the last stretch, which begins with line `first`, that it does not agree."""
        if self.stretches > max(0 if noted is UNSET else noted.marks, len(marks) // MARK_BYTES):
            return "it or one before it is not the line that was"
        if first == self.lines:
            return "it is not the line that was"
        return f"lines {first} to {self.lines} are not those that were"
