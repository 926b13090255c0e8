"""An output file as it was written: stretch after stretch, each a line, or the lines of a batch in one frame.

What is torn at the end is left out. Holds nothing against a manifest; that is `run.py`.
"""

import os
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from layerscope.records.manifest.identity import Packing
from layerscope.records.writing.packing import DECODING_ERRORS, METHODS, Method

_READ_BYTES = 1 << 20
_CHUNK = 1 << 16
_CUT_OFF_ZEROS = 512  # bytes of a file's end that were never written when the power went


class NotAFrameError(Exception):
    """A compressed file goes on with something that is no frame of its kind."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


class Stretch(NamedTuple):
    """What an output file grows by at once, and has one mark for."""

    raw: list[bytes]
    """Its bytes in the file, in pieces that follow one another."""
    text: bytes
    n_lines: int

    @property
    def lines(self) -> Iterable[bytes]:
        """Each with its line end."""
        return [self.text] if self.n_lines == 1 else BytesIO(self.text)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return sum(map(len, self.raw))


def read_stretches(path: Path, start: int = 0) -> Iterator[Stretch]:
    """The whole stretches of a file; holds one at a time.

    Args:
        start: where the first begins.

    Raises:
        NotAFrameError: in a file that begins with a frame something else follows.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=_READ_BYTES) as stream:
        method = _method_of(stream)
        if start:
            stream.seek(start)
        if method is None:
            yield from (Stretch([line], line, 1) for line in _whole(stream))
            return
        raw, texts = list[bytes](), list[bytes]()
        for piece, text, ends in _decoded(stream, method):
            raw.append(piece)
            texts.append(text)
            if ends:
                whole = b"".join(texts)
                texts.clear()
                if not whole.endswith(b"\n"):
                    raise NotAFrameError(start, f"a {method.unit} that does not end with a line")
                stretch = Stretch(raw, whole, whole.count(b"\n"))
                start += stretch.size
                yield stretch
                raw = []


class Placed(NamedTuple):
    """A line, and where it was found."""

    line: bytes
    """Its line end included."""
    begins: int
    """Where its stretch does, in bytes of the file."""
    read: int
    """Bytes of the file until then."""


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its line end; a torn last one is left out. Checks nothing.

    Raises:
        NotAFrameError, OSError: as `read_stretches`.
    """
    return (placed.line for placed in read_placed(path))


def read_placed(path: Path) -> Iterator[Placed]:
    """The same with their places, and a last line that is whole but for its end, as other tools leave it.

    Those of a frame come as they are decoded, so that a file that is one frame, however large, can be read.
    """
    with path.open("rb", buffering=_READ_BYTES) as stream:
        method, begins, read, rest = _method_of(stream), 0, 0, b""
        if method is None:
            for line in stream:
                begins, read = read, read + len(line)
                if not line.endswith(b"\n"):  # the last one, though more may be written while this reads
                    if object_of(line) is not None:
                        yield Placed(line + b"\n", begins, read)
                    return
                yield Placed(line, begins, read)
            return
        for piece, text, ends in _decoded(stream, method):
            read += len(piece)
            *lines, rest = (rest + text).split(b"\n")
            for line in lines:
                yield Placed(line + b"\n", begins, read)
            begins = read if ends else begins


class LinesByPlace:
    """Lines of files in whatever order; holds the last stretch, because neighbours are often asked for together."""

    def __init__(self) -> None:
        self._held: tuple[Path | None, int] = (None, 0)
        self._lines: list[bytes] = []

    def line(self, path: Path, begins: int, number: int) -> bytes:
        """The line of this number, from 0, of the stretch that begins there; empty where there is none such now."""
        if self._held != (path, begins):
            self._held = (path, begins)
            try:
                self._lines = list(next(read_stretches(path, begins)).lines)
            except (StopIteration, NotAFrameError):
                self._lines = []
        return self._lines[number] if number < len(self._lines) else b""


def object_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a line is, whatever its keys; None where it is none."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def compressed_as(path: Path) -> Method | None:
    """How a file is compressed, as its first bytes say; None for a file of plain lines, and an empty one."""
    with path.open("rb") as stream:
        return _method_of(stream)


def other_form(path: Path, wrote: Packing | UnsetType) -> str:
    """What a file holds in place of what its run wrote, for people; empty where it has that form."""
    found, meant = compressed_as(path), None if wrote is UNSET else METHODS[wrote.method]
    if found is meant:
        return ""
    there, been = ("plain lines" if form is None else f"a {form.unit}" for form in (found, meant))
    return (
        f"{there} where {been} {'were' if meant is None else 'was'} written: another tool packed or unpacked the file"
    )


def _whole(stream: BinaryIO) -> Iterator[bytes]:
    for line in stream:
        if not line.endswith(b"\n"):
            return  # a run may write the rest of it now, which is no line of its own
        yield line


def _method_of(stream: BinaryIO) -> Method | None:
    if not stream.seekable():
        return None
    beginning = stream.read(max(len(method.magic) for method in METHODS.values()))
    stream.seek(0)
    return next((method for method in METHODS.values() if beginning.startswith(method.magic)), None)


def _decoded(stream: BinaryIO, method: Method) -> Iterator[tuple[bytes, bytes, bool]]:
    """Frame after frame, piece by piece: bytes of the file, what they hold, and whether a frame ends with them."""
    offset, chunk = stream.tell(), b""
    while True:
        if len(chunk) < len(method.magic):
            chunk += stream.read(_CHUNK)
        if not chunk:
            return
        begun, decoder = offset, method.decoder()
        if not chunk.startswith(method.magic[: len(chunk)]):
            _expect_cut_off(stream, begun, f"no {method.unit}")
            return
        while not decoder.eof:
            try:
                text = decoder.decompress(chunk)
            except DECODING_ERRORS:
                _expect_cut_off(stream, begun, f"a damaged {method.unit}")
                return
            rest = decoder.unused_data
            used = chunk[: len(chunk) - len(rest)]
            offset += len(used)
            yield used, text, decoder.eof
            chunk = rest or stream.read(_CHUNK)
            if not chunk and not decoder.eof:
                return


def _expect_cut_off(stream: BinaryIO, begun: int, what: str) -> None:
    """Passes where the power went while the last frame was written: the file has its length, and zeros at its end.

    Raises:
        NotAFrameError: that was not it.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(begun, size - _CUT_OFF_ZEROS))
    if stream.read().strip(b"\0"):
        raise NotAFrameError(begun, what)
