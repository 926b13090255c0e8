"""A run of several parts: every part a file with a manifest and a lock of its own, and one small manifest for all.

That of `x.jsonl` is `x.jsonl.manifest.json`, as of any run; it names the parts `x-00001-of-00016.jsonl` and so on,
which lie beside it, and `x.jsonl` itself is not there. Whoever names the run, its manifest or its folder means all.
In object storage the parts of `s3://bucket/run` are folders in it, `00001-of-00016` and so on, each with the objects
that a run there has.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import orjson
from msgspec import Meta, Struct

from layerscope.errors import LayerscopeError, UsageError, remedy
from layerscope.files import open_plain, replacing, sync_folder, write_pieces
from layerscope.formatting import ranges, shell_word, utf8
from layerscope.records.advice import READING
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.strangers import OF_PARTS
from layerscope.records.storage.object_lock import ObjectLock
from layerscope.records.storage.stored_run import StoredRun, content_of, replace_content
from layerscope.records.writing.locking import is_locked, open_locked
from layerscope.records.writing.packing import packing_suffix
from layerscope.strict_json import parse_object

_LOOKED_AT = 200  # bytes that tell a manifest of parts from another, which may be a large one
_PartName = Annotated[str, Meta(pattern=r"\A[^/\0]+\Z")]


class PartsManifest(Struct, frozen=True, kw_only=True):
    """All that lies beside the manifests of the parts."""

    parts: Annotated[list[_PartName], Meta(min_length=2)]
    """The names of their files, in the order of the plan."""
    command: str
    folder: str
    """Where `command` was given."""


def part_paths(run: Path, count: int) -> list[Path]:
    """The files of a run of so many parts."""
    inner, suffix = run, ""
    if packing_suffix(run) is not None:
        inner, suffix = run.with_suffix(""), run.suffix
    numbers = [f"{part:05}-of-{count:05}" for part in range(1, count + 1)]
    if isinstance(run, StoredRun):  # whose name says the form, and may be any
        form = f"{inner.suffix}{suffix}" if inner.suffix == ".jsonl" else suffix
        return [_beside(run, f"{number}{form}") for number in numbers]
    return [_beside(run, f"{inner.stem}-{number}{inner.suffix}{suffix}") for number in numbers]


def names_parts(run: Path) -> bool:
    """Whether what lies where a run's manifest does is that of a run of parts."""
    try:
        if isinstance(run, StoredRun):
            return OF_PARTS.match(content_of(run.manifest)) is not None
        with os.fdopen(open_plain(manifest_path(run)), "rb") as stream:
            return OF_PARTS.match(stream.read(_LOOKED_AT)) is not None
    except OSError:
        return False


def read_parts(run: Path) -> PartsManifest:
    """The manifest of a run of parts.

    Raises:
        UsageError: it is not a whole one, or cannot be read.
    """
    beside = manifest_path(run)
    try:
        return msgspec.convert(parse_object(content_of(beside)), PartsManifest)
    except OSError as error:
        raise UsageError(f"{beside} cannot be read: {error.strerror}.\n{remedy(error, READING.broken)}") from error
    except (ValueError, RecursionError) as error:
        told = str(error).replace("`$.", "`")[:200]
        raise UsageError(
            f"{beside} is not a whole manifest of parts: {told}.\nRestore it, or name the files of the parts."
        ) from error


def dump_parts(run: Path, count: int, command: str) -> bytes:
    """The manifest of a run of so many parts, as it lies on the disk."""
    names = [path.name for path in part_paths(run, count)]
    manifest = PartsManifest(parts=names, command=command, folder=utf8(str(Path.cwd())))
    return orjson.dumps(msgspec.to_builtins(manifest), option=orjson.OPT_INDENT_2) + b"\n"


def as_it_lies(run: Path) -> bytes:
    """What tells whether two machines see one manifest: its content and when it was written; empty where none is."""
    path = manifest_path(run)
    try:
        if isinstance(run, StoredRun):
            return content_of(path)
        return path.read_bytes() + str(path.stat().st_mtime_ns).encode()
    except OSError:
        return b""


@contextmanager
def held(run: Path, count: int, command: str) -> Iterator[bool]:
    """Holds a run of so many parts, so that nobody else goes on with it meanwhile; its manifest is made if need be.

    Gives whether it was there.

    Raises:
        UsageError: it cannot be written there.
        LayerscopeError: another run holds it.
    """
    if isinstance(run, StoredRun):
        lock = ObjectLock.take(run)
        try:
            there = run.manifest.exists()
            if not there:
                replace_content(run.manifest, dump_parts(run, count, command))
            yield there
        finally:
            lock.release()
        return
    path = manifest_path(run)
    descriptor = open_locked(path)
    try:
        there = os.fstat(descriptor).st_size > 0
        if not there:
            try:
                with replacing(path, locked=False) as new:  # never a moment in which somebody else could hold it
                    fresh = open_locked(new)
                    os.close(descriptor)
                    descriptor = fresh
                    write_pieces(descriptor, [dump_parts(run, count, command)])
                sync_folder(path.parent)
            except OSError as error:
                raise LayerscopeError(
                    f"{path} cannot be written: {error.strerror or error}. Mend that and run again."
                ) from error
        yield there
    finally:
        os.close(descriptor)


def is_held(run: Path) -> bool:
    """Whether a head has the run now."""
    return is_locked(run if isinstance(run, StoredRun) else manifest_path(run))


def files_of_parts(run: Path) -> list[Path]:
    """The files of a run's parts.

    Raises:
        UsageError: one is missing.
    """
    paths = [_beside(run, name) for name in read_parts(run).parts]
    missing = [number for number, path in enumerate(paths, start=1) if not path.is_file()]
    if missing:
        several = len(missing) > 1
        raise UsageError(
            f"{run} has {len(paths)} parts, and part{'s' if several else ''} {ranges(missing)} (such as "
            f"{paths[missing[0] - 1].name}) {'are' if several else 'is'} not there.\n"
            "Put back what was moved, or name the other files to read them alone; the run's own command computes anew "
            f"what is gone.{_packed_beside(paths[missing[0] - 1])}"
        )
    return paths


def _packed_beside(path: Path) -> str:
    """How to have a file back that another tool packed, on a line of its own; empty where none lies beside it."""
    for suffix, tool in ((".gz", "gunzip"), (".zst", "unzstd --rm")):
        if not isinstance(path, StoredRun) and path.with_name(path.name + suffix).is_file():
            return f"\nIt is there, packed by another tool: {tool} {shell_word(f'{path}{suffix}')}"
    return ""


def _beside(run: Path, name: str) -> Path:
    return StoredRun(run, name) if isinstance(run, StoredRun) else run.with_name(name)
