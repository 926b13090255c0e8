"""Runs that lie in object storage, named as files are: `s3://bucket/run/` is read as the one file that its parts make.

A run's output there is cut into numbered objects, `part-00000.jsonl.zst` and so on, that never change; joined in their
order they are the bytes that the file on a disk has. `manifest.json` lies beside them. What is not a whole part yet may
be there as `rest-00003.jsonl.zst`, the beginning of part 3.
"""

import io
import os
import re
import time
from datetime import datetime
from functools import cached_property
from pathlib import Path, PosixPath
from typing import Any, BinaryIO, Final, NamedTuple

from layerscope.errors import LayerscopeError
from layerscope.files import read_plain, replacing
from layerscope.records.storage import object_store
from layerscope.records.storage.object_store import key_of

MANIFEST: Final = "manifest.json"
_PART = re.compile(r"(part|rest)-(\d{5,9})(\.jsonl(?:\.zst|\.gz)?)")
_LEAST, _MOST = 1 << 18, 1 << 23  # bytes that are asked for at once: more and more while they are read in order

_LOOK_SECONDS = 2.0


class Part(NamedTuple):
    """An object that holds some of a run's bytes."""

    name: str
    number: int
    size: int
    changed: float
    """When, in seconds since 1970."""
    whole: bool
    """It does not change any more."""


class StoredPath(PosixPath):
    """An address in object storage, as a path: it has a name, a suffix, a parent."""

    def __str__(self) -> str:
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    def __fspath__(self) -> str:
        return str(self)

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> "StoredPath":
        return self

    def resolve(self, strict: bool = False) -> "StoredPath":  # noqa: ARG002
        return self

    def samefile(self, other: Any) -> bool:
        return str(self) == str(other)

    def is_symlink(self) -> bool:
        return False

    def is_dir(self) -> bool:
        return False


class StoredObject(StoredPath):
    """One object."""

    def read_bytes(self) -> bytes:
        return object_store.read(str(self))

    def exists(self) -> bool:
        return object_store.exists(str(self))

    is_file = exists


class StoredRun(StoredPath):
    """A run's output in object storage: a folder of numbered parts, or the one object that a file was copied to."""

    _seen: list[Part]
    _looked = -_LOOK_SECONDS
    _first: tuple[int, bytes] = (0, b"")
    _last: tuple[int, bytes] = (0, b"")

    @cached_property
    def is_one_object(self) -> bool:
        """Whether it is a file that was copied there, with its manifest beside it."""
        return any(each["name"] == key_of(str(self)) for each in self._listed())

    @property
    def manifest(self) -> StoredObject:
        if self.is_one_object:
            return StoredObject(self.with_name(f"{self.name}.{MANIFEST}"))
        return StoredObject(self, MANIFEST)

    def part(self, name: str) -> StoredObject:
        """The object of a part."""
        return StoredObject(self, name)

    def exists(self) -> bool:
        return bool(self._listed())

    def is_file(self) -> bool:
        own = key_of(str(self))
        names = [each["name"].removeprefix(own).lstrip("/") for each in self._listed()]
        return any(name in ("", MANIFEST) or _PART.fullmatch(name) for name in names)

    def runs(self) -> list["StoredRun"]:
        """It, or those in it: shards may be side by side."""
        if self.is_file():
            return [self]
        below = [StoredRun(self, name) for name, _ in self.objects() if not name.endswith(f".{MANIFEST}")]
        return [run for run in below if run.is_file()] or [self]

    def parts_there(self) -> list[Part]:
        """Its parts in their order, the beginning of the next one last, if that is there.

        Raises:
            LayerscopeError: one is missing between others, or there twice.
        """
        own, parts, rests = key_of(str(self)), dict[int, Part](), dict[int, Part]()
        for each in self._listed():
            if each["name"] == own:
                return [Part("", 0, int(each["size"]), _changed(each), True)]
            if found := _PART.fullmatch(each["name"].removeprefix(own).lstrip("/")):
                whole, number = found[1] == "part", int(found[2])
                among = parts if whole else rests
                if number in among:
                    raise LayerscopeError(
                        f"{self} has both {among[number].name} and {found[0]}: parts of two runs.\n"
                        "Move those of one to a folder of their own."
                    )
                among[number] = Part(found[0], number, int(each["size"]), _changed(each), whole)
        whole_parts = [parts[number] for number in sorted(parts)]
        for number, part in enumerate(whole_parts):
            if part.number != number:
                raise LayerscopeError(
                    f"{self}: part {number} is missing, and {part.name} is there.\n"
                    "Restore it (a bucket with versions keeps what was deleted), or remove the parts behind it: the "
                    "run's own command computes them again."
                )
        rest = rests.get(len(whole_parts))
        return whole_parts if rest is None else [*whole_parts, rest]

    def object_with(self, place: int) -> str:
        """The name of the object in which a byte of it lies; empty where it is one object itself, or ends before."""
        for part in self.parts_there():
            if place < part.size:
                return part.name
            place -= part.size
        return ""

    def parts_of_late(self) -> list[Part]:
        """The same, as they were a moment ago: a reader opens a file for every line that it goes back to."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._seen, self._looked = self.parts_there(), time.monotonic()
        return self._seen

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002
        there = self.parts_there()
        changed = max((part.changed for part in there), default=0.0)
        return os.stat_result((0o100444, 0, 0, 1, 0, 0, sum(part.size for part in there), changed, changed, changed))

    def open(self, mode: str = "rb", buffering: int = -1, *_: Any, **__: Any) -> BinaryIO:  # type: ignore[override]
        """Its bytes, to be read from anywhere: of what is there now."""
        assert mode == "rb", "what lies in object storage is not written so"
        return io.BufferedReader(_Joined(self), max(buffering, io.DEFAULT_BUFFER_SIZE))

    def block(self, parts: list[Part], at: int) -> tuple[int, bytes]:
        """Bytes around a place, and where they begin; none at the end.

        Kept until others are asked for, as are the first: a file is often opened again for what comes next.
        """
        for begins, held in (self._first, self._last):
            if begins <= at < begins + len(held):
                return begins, held
        last, held = self._last
        ahead = min(2 * len(held), _MOST) if at == last + len(held) else 0
        found = at, _fetched(self, parts, at, max(ahead, _LEAST))
        if at:
            self._last = found
        else:
            self._first = found
            self._last = found
        return found

    def objects(self) -> list[tuple[str, float]]:
        """The name of everything in the folder, and when it was written, in seconds since 1970."""
        return [(each["name"].rpartition("/")[2], _changed(each)) for each in self._listed()]

    def _listed(self) -> list[dict[str, Any]]:
        return object_store.listed(str(self))


class _Joined(io.RawIOBase):
    """The parts of a run, read as one file."""

    def __init__(self, run: StoredRun) -> None:
        self._run, self._parts, self._at = run, run.parts_of_late(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = sum(part.size for part in self._parts)
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        begins, held = self._run.block(self._parts, self._at)
        found = held[self._at - begins : self._at - begins + len(view)]
        view[: len(found)] = found
        self._at += len(found)
        return len(found)


def _fetched(run: StoredRun, parts: list[Part], at: int, most: int) -> bytes:
    """The bytes from a place on, of one part."""
    for part in parts:
        if at < part.size:
            return _read(run, part, at, min(at + most, part.size))
        at -= part.size
    return b""


def _read(run: StoredRun, part: Part, start: int, end: int) -> bytes:
    address = str(run.part(part.name)) if part.name else str(run)
    try:
        found = object_store.read(address, start, end)
    except FileNotFoundError:
        # It became a part meanwhile, which begins with the same bytes.
        address = str(run.part(part.name.replace("rest", "part", 1)))
        found = object_store.read(address, start, end)
    if len(found) != end - start:
        raise LayerscopeError(
            f"{address} changed while it was read: {len(found):,} of {end - start:,} bytes are there.\n"
            "Run the same command again."
        )
    return found


def _changed(found: dict[str, Any]) -> float:
    """When an object was written, as its store says it."""
    for name in ("LastModified", "mtime", "updated", "created"):
        value = found.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    return 0.0


def content_of(file: Path) -> bytes:
    """What a small file holds, wherever it lies; raises OSError."""
    return file.read_bytes() if isinstance(file, StoredObject) else read_plain(file)


def replace_content(file: Path, content: bytes | memoryview) -> None:
    """Replaces a small file, wherever it lies, in one atomic step; raises OSError."""
    if isinstance(file, StoredObject):
        object_store.put(str(file), bytes(content), object_store.WRITE_SECONDS)
        return
    with replacing(file) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
