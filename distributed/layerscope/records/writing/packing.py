"""Compressed lines: each batch's in one zstd frame or gzip member, which one after the other are the file.

They are made at once and in one thread, so that their bytes depend on the lines, the library and the level alone; those
stand in the manifest. Reads no file; that is `stretches.py`.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.files import Piece
from layerscope.records.manifest.identity import Packing, PackingName
from layerscope.records.storage.stored_run import StoredRun


@dataclass(frozen=True)
class Method:
    """A way to compress."""

    suffix: str
    """Of the names of files."""
    magic: bytes
    """How every frame begins."""
    library: str
    level: int
    compress: Callable[[bytes, int], bytes]
    decoder: Callable[[], Any]
    """Of one frame: has `decompress(bytes)`, `eof` and `unused_data`."""
    unit: str
    """What the method calls a frame."""


def _zstd(text: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(text)


def _gzip(text: bytes, level: int) -> bytes:
    return zlib.compress(text, level, wbits=31)  # a gzip header without a time


METHODS: Final[dict[PackingName, Method]] = {
    "zstd": Method(
        ".zst",
        b"\x28\xb5\x2f\xfd",
        "zstd {}.{}.{}".format(*zstandard.ZSTD_VERSION),
        1,  # smaller than 2 to 5 and faster: records repeat within a few kilobytes
        _zstd,
        lambda: zstandard.ZstdDecompressor().decompressobj(),
        "zstd frame",
    ),
    "gzip": Method(
        ".gz",
        b"\x1f\x8b\x08",
        f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
        4,  # the lowest with which records take less than a fifth
        _gzip,
        lambda: zlib.decompressobj(wbits=31),
        "gzip member",
    ),
}
TIMES_SMALLER: Final = 5  # that records are compressed, at least
DECODING_ERRORS: Final = (zstandard.ZstdError, zlib.error)


@dataclass(frozen=True)
class Packed:
    """The lines of a batch, compressed."""

    array: NDArray[np.uint8]
    """An array, so that it travels from process to process uncopied."""
    lines: int

    @property
    def data(self) -> memoryview:
        return self.array.data


def packing_suffix(path: Path) -> PackingName | None:
    """Which method a file's name says; None for a file of plain lines."""
    return next((name for name, method in METHODS.items() if path.suffix == method.suffix), None)


def packing_of(path: Path) -> Packing | None:
    """How the lines of a file of this name are compressed; None where they are not (in object storage: of `.jsonl`)."""
    name = packing_suffix(path)
    if isinstance(path, StoredRun) and path.suffix.lower() != ".jsonl":
        name = name or "zstd"
    return None if name is None else packing(name)


@cache
def packing(name: PackingName) -> Packing:
    """What decides the bytes of compressed lines here: two libraries of one version may still be built otherwise."""
    method = METHODS[name]
    probe = xxhash.xxh3_64_hexdigest(method.compress(_sample(), method.level))
    return Packing(method=name, level=method.level, library=method.library, probe=probe)


def pack(lines: Sequence[Piece], how: Packing) -> bytes:
    """The pieces of lines, which follow one another, as one frame.

    Raises:
        LayerscopeError: this machine's library makes other bytes than the file was begun with.
    """
    here = packing(how.method)
    if here != how:
        raise LayerscopeError(
            f"The file was begun with {how.library} (level {how.level}); {here.library} (level {here.level}) here "
            "makes other bytes of the same lines.\n"
            "Install the same versions on every machine of the run (scripts/constraints.txt pins them), and run again."
        )
    return METHODS[how.method].compress(b"".join(lines), how.level)


def unpack(packed: Packed) -> list[bytes]:
    """The lines that `pack` took."""
    name = next(name for name, method in METHODS.items() if bytes(packed.data[:4]).startswith(method.magic))
    return list(BytesIO(METHODS[name].decoder().decompress(packed.data)))


def _sample() -> bytes:
    """Text like that of records, long enough for several blocks, that no version of Python changes."""
    number, parts = 1, list[bytes]()
    for _ in range(8000):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
        parts.append(b'{"feature_id":%d,"activation":%d.%d,"layer":12},' % (number % 16384, number % 97, number >> 12))
    return b"".join(parts)
