"""The manifest beside an output file: what decided its bytes, and how far they were written."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import orjson
import xxhash

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import replacing

FORMAT = 1


def manifest_path(path: Path) -> Path:
    """Where the manifest of an output file lies."""
    return path.with_name(path.name + ".manifest.json")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an output file.

    Raises:
        UsageError: there is none, or it is not one.
    """
    beside = manifest_path(path)
    try:
        manifest = orjson.loads(beside.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{path} has no manifest ({beside.name}) beside it: layerscope did not make it, or the manifest was lost.\n"
            "Name another --output-file, or start anew with --overwrite."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{beside} cannot be read: {error}. Start anew with --overwrite, or restore it.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not {"identity", "about"} <= set(manifest):
        raise UsageError(f"{beside} is not a manifest of this version of layerscope. Start anew with --overwrite.")
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Replaces the manifest of an output file in one atomic step.

    Raises:
        LayerscopeError: it cannot be written.
    """
    try:
        with replacing(manifest_path(path)) as temporary, temporary.open("wb") as stream:
            stream.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise LayerscopeError(
            f"The manifest of {path} cannot be written: {error.strerror}. Make room and run again."
        ) from error


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`name was …, is …` for every value that differs, nested names joined by dots."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {_short(before)}, is {_short(after)}")
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"


class _Digest(Protocol):
    """What hashlib and xxhash have in common."""

    @property
    def name(self) -> str: ...
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


class Extent:
    """How far a file goes: its lines, its bytes, and a running digest of which four bytes are kept after every line.

    The kept bytes tell which line was changed later, at four bytes a line. The digest is XXH3: against damage, not
    against somebody who would write the manifest anew as well, and at a thirtieth of SHA-256's time.
    """

    def __init__(self, noted: Mapping[str, Any] | None = None) -> None:
        self.lines = 0
        self.size = 0
        # The first files had SHA-256, and stay with it.
        self._digest: _Digest = hashlib.sha256() if "sha256" in (noted or {}) else xxhash.xxh3_128()
        self._marks = bytearray()

    def add(self, *pieces: bytes | memoryview) -> None:
        """Counts one more line, its line end included, whole or in pieces that follow one another."""
        self.lines += 1
        for piece in pieces:
            self.size += len(piece)
            self._digest.update(piece)
        self._marks += self._digest.digest()[:4]

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

    def note(self) -> dict[str, Any]:
        """What the manifest keeps."""
        name, running = self._digest.name.lower(), self._marks.hex(" ", -4)
        return {"lines": self.lines, "bytes": self.size, name: self._digest.hexdigest(), "running": running}

    def agrees(self, noted: dict[str, Any]) -> bool:
        """Whether the last line is what a manifest noted there; true behind what it noted."""
        mark: str = noted["running"][9 * (self.lines - 1) : 9 * self.lines - 1] if noted else ""
        return not mark or mark == self._marks[-4:].hex()
