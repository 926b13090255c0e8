"""The output file: ordered, append-only, locked while a run is on it, and the manifest beside it.

At every moment the file is a byte-prefix of the finished one, but for one torn last line after a crash, which the next
run removes. Knows nothing of what a record means beyond its `example_id`.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import replacing

FORMAT = 1  # of the manifest
_CHECKPOINT_SECONDS = 5.0
_READ_BYTES = 1 << 20


def records_path(output_file: str) -> Path:
    """Where the lines go: the output file, or `x.jsonl` for `x.json`, which gets the array when the run is finished."""
    path = Path(output_file).expanduser().absolute()
    return path.with_suffix(".jsonl") if path.suffix == ".json" else path


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".manifest.json")


class Journal:
    """The open output file of a run; made by `open_journal`, closed by leaving its `with` block."""

    def __init__(self, path: Path, descriptor: int, manifest: dict[str, Any]) -> None:
        self.path = path
        self.lines = 0
        self.size = 0
        self._descriptor = descriptor
        self._manifest = manifest
        self._digest = hashlib.sha256()
        self._checkpointed = 0.0

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, lines: bytes) -> None:
        """Writes whole lines and waits until they are on the disk.

        Raises:
            LayerscopeError: they cannot be written or synced; the file then ends where it ended before.
        """
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._take_back()
            raise LayerscopeError(
                f"{self.path} cannot be written: {error.strerror or error}. Its {self.lines} lines are whole.\n"
                "Make room (or mend the disk) and run the same command again; it goes on there."
            ) from error
        self._count(lines)
        if time.monotonic() - self._checkpointed > _CHECKPOINT_SECONDS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Notes in the manifest how far the file goes and what its bytes hash to."""
        progress = {"lines": self.lines, "bytes": self.size, "sha256": self._digest.hexdigest()}
        self._manifest = {**self._manifest, "progress": progress}
        _write_manifest(self.path, self._manifest)
        self._checkpointed = time.monotonic()

    def close(self) -> None:
        """Notes the last state and lets go of the lock."""
        if self._descriptor >= 0:
            try:
                self.checkpoint()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def recover(self, order: NDArray[np.int64], on_record: Callable[[dict[str, Any]], None]) -> None:
        """Reads what is there, removes a torn last line, and checks every record against the plan.

        Args:
            order: the `example_id` of every line of the finished file.
            on_record: gets every record.

        Raises:
            LayerscopeError: a line is not the record that belongs there, or was changed after it was written.
        """
        noted = self._manifest.get("progress", {})
        for line in read_lines(self.path):
            try:
                record = orjson.loads(line)
                if self.lines >= len(order) or record["example_id"] != order[self.lines]:
                    raise ValueError
                on_record(record)
            except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
                raise LayerscopeError(self._changed(f"line {self.lines + 1}")) from error
            self._count(line)
            if self.size == noted.get("bytes") and self._digest.hexdigest() != noted["sha256"]:
                raise LayerscopeError(self._changed(f"one of its first {self.lines} lines"))
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)
        os.fsync(self._descriptor)

    def _changed(self, what: str) -> str:
        return (
            f"{self.path}: {what} is not what this run wrote there, so it cannot go on.\n"
            "Restore the file, name another with --output-file, or start anew with --overwrite."
        )

    def _count(self, lines: bytes) -> None:
        self.lines += lines.count(b"\n")
        self.size += len(lines)
        self._digest.update(lines)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
        except OSError:
            pass  # the next run removes the torn line


@dataclass(frozen=True)
class Status:
    """What stands in a file, for people who only look."""

    lines: int
    differences: list[str]
    """Settings of the file's run that differ from the ones asked about."""


def open_journal(path: Path, identity: dict[str, Any], about: dict[str, Any], overwrite: bool) -> Journal:
    """Opens and locks the output file, new or to go on with.

    Args:
        identity: whatever decides the file's bytes; a file of another identity is refused.
        about: what else the manifest says of the run.

    Raises:
        UsageError: the file is there and was made with other settings, or was not made by layerscope.
        LayerscopeError: another run is on it, or it cannot be written.
    """
    manifest: dict[str, Any] = {"format": FORMAT, "identity": identity, "about": about}
    descriptor = _open_locked(path)
    try:
        if os.fstat(descriptor).st_size and overwrite:
            path.rename(path.with_name(path.name + ".old"))
            os.close(descriptor)
            descriptor = _open_locked(path)
        if os.fstat(descriptor).st_size:
            manifest = read_manifest(path)
            if differing := differences(manifest["identity"], identity):
                raise UsageError(
                    f"{path} was made with other settings: {'; '.join(differing)}.\n"
                    "Use the settings it was made with, name another --output-file, or start anew with --overwrite."
                )
        else:
            _write_manifest(path, manifest)
    except BaseException:
        os.close(descriptor)
        raise
    return Journal(path, descriptor, manifest)


def look(path: Path, identity: dict[str, Any]) -> Status | None:
    """How many whole lines a file holds and whether a run with these settings could go on with it; None without one."""
    if not path.is_file() or not path.stat().st_size:
        return None
    return Status(sum(1 for _ in read_lines(path)), differences(read_manifest(path)["identity"], identity))


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
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "identity" not in manifest:
        raise UsageError(f"{beside} is not a manifest of this version of layerscope. Start anew with --overwrite.")
    return manifest


def read_lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file, each with its line end; a torn last one is left out."""
    with path.open("rb", buffering=_READ_BYTES) as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`name: old -> new` for every value that differs, nested names joined by dots."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {_short(before)}, is {_short(after)}")
    return found


def write_array(path: Path, array_path: Path) -> None:
    """Writes the records of a finished file as one JSON array, in one atomic step."""
    with replacing(array_path) as temporary, temporary.open("wb") as stream:
        separator = b"[\n"
        for line in read_lines(path):
            stream.write(separator + line[:-1])
            separator = b",\n"
        stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")
        stream.flush()
        os.fsync(stream.fileno())


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _open_locked(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}. Name another --output-file.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LayerscopeError(
                f"Another run is writing {path}. Wait for it, stop it, or name another --output-file."
            ) from None
        # Whoever moved the file aside between opening and locking left us with the wrong one.
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    try:
        with replacing(manifest_path(path)) as temporary:
            temporary.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise LayerscopeError(
            f"The manifest of {path} cannot be written: {error.strerror}. Make room and run again."
        ) from error
