"""Where the rows of a file lie, noted for a block of rows at a time: a row costs one byte of memory."""

import os
from array import array
from io import BytesIO
from typing import Final

import xxhash

ROWS: Final = 16
"""Of a block; who wants one row reads as many."""


class Blocks:
    """The places of a file's rows and a hash of them, by which a row that is read again is known to be the same."""

    def __init__(self) -> None:
        self._begins, self._hashes = array("q"), array("Q")
        self._rows = self._end = 0
        self._digest = xxhash.xxh3_64()

    def __len__(self) -> int:
        """Rows."""
        return self._rows

    def add(self, offset: int, line: bytes) -> None:
        """The next row; lines that are blank are none."""
        if self._rows % ROWS == 0:
            self._begins.append(offset)
        self._rows, self._end = self._rows + 1, offset + len(line)
        self._digest.update(line)
        if self._rows % ROWS == 0:
            self._close()

    def end(self) -> None:
        """There are no more; from then on this can travel to another process."""
        if self._rows % ROWS:
            self._close()
        self._begins.append(self._end)
        del self._digest

    def _close(self) -> None:
        self._hashes.append(self._digest.intdigest())
        self._digest.reset()

    @property
    def content(self) -> "array[int]":
        """The same for the same rows."""
        return self._hashes

    def read(self, descriptor: int, block: int) -> list[bytes]:
        """The rows of a block, and perhaps an empty one; none where they are not those that were there.

        Args:
            descriptor: of the file, which others may share: where it stands does not matter.
        """
        text = os.pread(descriptor, self._begins[block + 1] - self._begins[block], self._begins[block])
        if xxhash.xxh3_64_intdigest(text) == self._hashes[block]:  # no line between them is blank
            return text.split(b"\n")
        rows = [line for line in BytesIO(text) if line.strip()]
        return rows if xxhash.xxh3_64_intdigest(b"".join(rows)) == self._hashes[block] else []
