"""The one rule for every file that a command writes, held before any work starts.

A target lies in a folder that is there, is no folder, link or device itself, and is none of the files that the command
reads or of a run. What is there already is replaced only where the command made it, or `--overwrite` says so.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from layerscope.errors import LayerscopeError, UsageError, remedy
from layerscope.files import COMPRESSED, user_path
from layerscope.questions.standard_input import records_of_copy
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.manifest.order import is_order, order_path
from layerscope.records.reading.residuals import is_residuals, residuals_path
from layerscope.records.reading.stretches import NotAFrameError, read_lines
from layerscope.records.storage.addresses import is_address, run_path
from layerscope.records.storage.stored_run import StoredRun
from layerscope.records.writing.marks import is_marks, marks_path
from layerscope.records.writing.overwriting import aside_path
from layerscope.records.writing.packing import packing_suffix

_BESIDE = (manifest_path, marks_path, order_path, residuals_path, aside_path)
"""Where the other files of a run lie, by its output file."""
_MANIFEST, *_ENDINGS = (beside(Path("x")).name.removeprefix("x") for beside in _BESIDE)
_FIRST_RECORD = b'{"example_id":'
_OF_EXPORTS = (".parquet", ".csv", ".html")
TIMELINE = b'[\n{"name":"process_name",'
"""How a timeline begins; an empty one is `[]`."""
LONGEST_NAME = 255 - len(f".overwritten{_MANIFEST}")
"""Bytes of an output file's name: that of its manifest is longer, and file systems take 255."""


def records_path(output_file: str) -> Path:
    """Where the lines go: the output file, or `x.jsonl` for `x.json`, which gets the array when the run is finished."""
    path = run_path(output_file).absolute()
    if isinstance(path, StoredRun):
        return path
    return path.with_suffix(".jsonl") if path.suffix == ".json" else path


def inner_suffix(path: Path) -> str:
    """What a file's name says of its content, compressed or not: `.jsonl` of `x.jsonl.zst`."""
    return (path if packing_suffix(path) is None else path.with_suffix("")).suffix.lower()


def begins_with(*beginnings: bytes) -> Callable[[Path], bool]:
    """Whether a file begins in one of these ways; tells what a command made."""

    def does(path: Path) -> bool:
        with path.open("rb") as stream:
            return stream.read(max(map(len, beginnings))).startswith(beginnings)

    return does


def holds_records(path: Path) -> bool:
    """Whether a run wrote a file: nothing yet, or records."""
    if manifest_path(path).is_file() or path.stat().st_size == 0:
        return True
    try:
        return next(read_lines(path), b"").startswith(_FIRST_RECORD)
    except NotAFrameError:
        return False


def check_output(records: Path, array: Path | None, inputs: Iterable[Path], overwrite: bool) -> None:
    """Refuses an output file that a run may not write.

    Args:
        records: where the lines go.
        array: where the finished run writes the JSON array.
        inputs: files that the run reads.

    Raises:
        UsageError: it may not.
    """
    option = "--output-file"
    for path, own in ((records, holds_records), (array, begins_with(b"[\n" + _FIRST_RECORD, b"[]"))):
        if path is not None:
            inner = inner_suffix(path)
            if inner in _OF_EXPORTS or (inner == ".json" and inner != path.suffix.lower()):
                raise UsageError(
                    f"{option}: {path.name} would hold lines of JSON. Name a .jsonl file, and make {inner} of it "
                    "with `layerscope export` or `layerscope report`."
                )
            _check_place(option, path, inputs, compressed=packing_suffix(path) is not None)
            if _of_a_run(path):
                raise UsageError(f"{option}: {path} belongs to a run, which it would spoil. Name another file.")
            if _is_there(option, path) and not _readable(option, path, own):
                raise UsageError(f"{option}: {path} was not made by a run. Move it away, or name another file.")
    if len(os.fsencode(records.name)) > LONGEST_NAME:
        raise UsageError(
            f"{option}: the name {records.name[:40]}… has {len(os.fsencode(records.name))} bytes; with those that its "
            f"manifest's has besides, {LONGEST_NAME} are possible. Take a shorter one."
        )
    for beside, own in ((marks_path(records), is_marks), (order_path(records), is_order)):
        if _is_there(option, beside) and not _readable(option, beside, own):
            raise UsageError(
                f"{option}: {beside} would be written beside {records.name}, and was not made by a run.\n"
                "Move it away, or name another file."
            )
    aside = aside_path(records)
    for residuals in map(residuals_path, (records, aside)):
        if os.path.lexists(residuals) and not _readable(option, residuals, is_residuals):
            raise UsageError(
                f"{option}: {residuals.name} is where a run keeps the residuals of {records.name}, and no run made it, "
                "or not all that is in it.\nMove that away, or name another file."
            )
    if _is_there(option, aside) and not _readable(option, aside, holds_records):
        raise UsageError(
            f"{option}: {aside.name} is where a run keeps what --overwrite replaces, and no run made it.\n"
            "Move it away, or name another file."
        )
    if array is not None and array.exists() and not records.exists() and not overwrite:
        raise UsageError(
            f"{array} is there already, without the {records.name} of a run that could go on.\n"
            "Name another --output-file, or replace it with --overwrite."
        )


def check_address(records: StoredRun, without: Mapping[str, bool]) -> None:
    """Refuses an address that a run cannot write to; asks its store, so that what is missing there is said first.

    Args:
        without: options that files on a disk alone have, and whether they are given.

    Raises:
        UsageError: it cannot, or options are given that cannot be kept there.
        LayerscopeError: the store does not answer.
    """
    option = "--output-file"
    if given := [name for name, is_given in without.items() if is_given]:
        copy = ""
        with suppress(LayerscopeError):  # of a store that does not answer this is still what to mend first
            copy = f"; of a run that is there: layerscope export {records} --to copy.jsonl.zst" * records.is_file()
        raise UsageError(
            f"{option}: {records} is in object storage, where {' and '.join(given)} cannot be kept or done.\n"
            f"Leave {'it' if len(given) == 1 else 'them'} out, or name a file on a disk{copy}"
        )
    inner = inner_suffix(records)
    if inner in (*_OF_EXPORTS, ".json"):
        raise UsageError(
            f"{option}: {records} is a folder of lines of JSON. Leave out {inner}, and make such a file of it "
            "with `layerscope export` or `layerscope report`."
        )
    if records.is_one_object:
        raise UsageError(
            f"{option}: {records} is one object, and a run writes a folder of parts. Name another address."
        )
    if records.is_file() and not records.manifest.exists():
        raise UsageError(
            f"{option}: {records} holds parts without {records.manifest.name}. Restore it, or name another address."
        )


def check_target(
    option: str,
    target: str | os.PathLike[str],
    inputs: Iterable[Path] = (),
    own: Callable[[Path], bool] | None = None,
    overwrite: bool | None = None,
    compressed: bool = False,
) -> Path:
    """The path of a file that a command is about to write, if it may.

    Args:
        option: names the target in messages: `--to`.
        inputs: files that the command reads or writes besides.
        own: whether what is there may be replaced without being asked, because the command made it.
        overwrite: whether the command was told to replace what is there; None where it has no such option.
        compressed: whether what is written is, as the target's name says.

    Raises:
        UsageError: it may not.
    """
    path = user_path(target)
    if os.fspath(target).endswith("/"):
        raise UsageError(f"{option}: {os.fspath(target)} is a folder's name. Name a file.")
    _check_place(option, path, inputs, compressed)
    if path.name.endswith(_MANIFEST) or manifest_path(path).exists() or _of_a_run(path):
        raise UsageError(f"{option}: {path} belongs to a run, whose records it would spoil. Name another file.")
    if _is_there(option, path) and not overwrite and (own is None or not _readable(option, path, own)):
        how = "Name another file." if overwrite is None else "Name another file, or replace it with --overwrite."
        raise UsageError(f"{option}: {path} is there already{', made by something else' if own else ''}. {how}")
    return path


def beside_records(records: Path) -> list[Path]:
    """What else a run may write, or keep, beside its output file."""
    return [beside(records) for beside in _BESIDE]


def _readable(option: str, path: Path, look: Callable[[Path], bool]) -> bool:
    """What is seen of what is there.

    Raises:
        UsageError: it cannot be looked into.
    """
    try:
        return look(path)
    except OSError as error:
        told = f"{option}: {error.filename or path} cannot be read: {error.strerror}."
        raise UsageError(f"{told}\n{remedy(error, 'Mend it, or name another file.')}") from error


def _of_a_run(path: Path) -> bool:
    """Whether a file or folder is one that a run keeps beside its output file."""
    records = records_of_copy(path)
    return (records is not None and manifest_path(records).exists()) or any(
        path.name.endswith(ending) and manifest_path(path.with_name(path.name.removesuffix(ending))).exists()
        for ending in _ENDINGS
    )


def _check_place(option: str, path: Path, inputs: Iterable[Path], compressed: bool = False) -> None:
    if is_address(path):
        raise UsageError(f"{option}: only a run's output may lie in object storage. Name a file of this machine.")
    folder = path.parent
    if path.suffix.lower() in COMPRESSED and not compressed:
        raise UsageError(
            f"{option}: {path.name} promises compressed content, and what is written is not. Leave out {path.suffix}; "
            "records alone can be compressed as they are written, to .jsonl.zst or .jsonl.gz."
        )
    if not folder.is_dir():
        raise UsageError(f"{option}: there is no folder {folder}. Make it, or name another file.")
    if path.is_dir():
        raise UsageError(f"{option}: {path} is a folder. Name a file.")
    if _of_a_run(folder.absolute()):
        raise UsageError(f"{option}: {folder} belongs to a run, which keeps nothing else there. Name a file elsewhere.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option}: {folder} cannot be written to. Name a file elsewhere.")
    if any(_same(path, other) for other in inputs):
        raise UsageError(f"{option}: {path} is a file that this command reads or writes already. Name another file.")


def _is_there(option: str, path: Path) -> bool:
    """Whether there is a file that a command could replace.

    Raises:
        UsageError: what is there is none, or cannot be read.
    """
    if path.is_symlink():
        raise UsageError(f"{option}: {path} is a symbolic link. Name the file itself, or another one.")
    if not path.exists():
        return False
    if not path.is_file():
        raise UsageError(f"{option}: {path} is no regular file. Name a file.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{option}: {path} cannot be read, so it cannot be told who made it. Name another file.")
    return True


def _same(path: Path, other: Path) -> bool:
    """Whether two paths are one file, by whatever links, or would be."""
    try:
        return path.samefile(other)
    except OSError:  # one is not there (or has a longer name than any file's): what is named may be the same yet
        return path.resolve() == other.resolve()
