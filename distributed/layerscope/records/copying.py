"""A run as one file, in another form: its lines plain or compressed, and all that lies beside it, so that it is a run.

What it was copied from may be growing; the copy then holds what was there, and can be gone on with.
"""

import os
import shlex
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import xxhash
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from layerscope.errors import LayerscopeError, UsageError
from layerscope.files import Piece, replacing, sync_folder
from layerscope.formatting import count_of, shell_word
from layerscope.records.advice import READING
from layerscope.records.manifest.jobs import shard_of
from layerscope.records.manifest.joining import whole_manifest
from layerscope.records.manifest.manifest import Manifest, write_manifest
from layerscope.records.manifest.order import order_path, write_order
from layerscope.records.progress import shown
from layerscope.records.reading.residuals import Layout, changed, chunks, noted_digests, open_layer, residuals_path
from layerscope.records.reading.run import RecordsFile, Run
from layerscope.records.reading.stretches import read_stretches
from layerscope.records.reading.unnoted import Unnoted
from layerscope.records.writing.extent import Extent
from layerscope.records.writing.marks import Marks, marks_path
from layerscope.records.writing.packing import pack, packing_of


def copy_run(file: RecordsFile, target: Path) -> tuple[str, ...]:
    """Copies a run to a file that is not there yet; its name says how the lines are compressed.

    Of the parts of a run it makes the file that one writer would have made, up to where the first of them ends early.

    Every line is held against the source's manifest, and what was written is read again and held against it.

    Returns:
        what whoever has the copy must know, for people.

    Raises:
        UsageError: the run cannot have that form, or a part of it is not there.
        LayerscopeError: a line is not the one that was written there, or the disk is full or fails; there is no copy.
    """
    parts = _parts(file)
    manifest, how = _of_copy(whole_manifest(parts), target), packing_of(target)
    _expect_nothing_beside(target)
    try:
        with replacing(target) as temporary:
            if not manifest.lists_lines:
                write_order(target, manifest.about.example_ids)
            extent, digest, read = _copy_lines(parts, manifest, temporary)
            extent.residuals = _copy_residuals(parts, read, target, manifest, extent.lines)
            _expect_the_same(temporary, digest, target)
            if not manifest.lists_lines and extent.lines:
                Marks(target).begin(extent)
        write_manifest(target, replace(manifest, progress=extent.note(manifest.lists_lines)))
        sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(residuals_path(target), ignore_errors=True)
        for beside in (order_path(target), marks_path(target)):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LayerscopeError(
                f"{target} cannot be written: {error.strerror or error}. The run that was to be copied is as it was.\n"
                "Make room, or name a file elsewhere, and run the same command again."
            ) from error
        raise
    notes = []
    if how and (left_out := sum(read) - extent.lines):
        torn = f"{count_of(left_out, 'line')} of a batch that is not whole yet"
        notes.append(
            f"Without {torn}: it has no frame before that. A run that goes on with the copy computes them again."
        )
    if behind := sum(part.manifest.lines_noted() for part in parts[len(read) :]):
        notes.append(
            f"Without {count_of(behind, 'line')} behind part {len(read)}, which is not finished: go on with the run "
            "and export it again."
        )
    return tuple(notes)


def _parts(file: RecordsFile) -> list[Run]:
    """The file, or all files of a run of parts."""
    if not isinstance(file, Run) or isinstance(file, Unnoted):
        raise UsageError(
            f"{file.path} has no manifest beside it, which says where a batch ends.\n"
            "Put its run's manifest back; or compress it with zstd or gzip, as any file of lines."
        )
    parts = [part for part in file.parts if isinstance(part, Run)]
    if len(parts) > 1 and len(parts) < shard_of(parts[0])[1]:
        raise UsageError(
            f"--to: a copy is of a whole run, or of one file. {file.notes[0]}\nName these too, or copy each alone."
        )
    return parts


def _of_copy(known: Manifest, target: Path) -> Manifest:
    """The manifest of the copy, which notes no lines yet."""
    how = packing_of(target)
    if how is not None and not known.about.batches:
        raise UsageError(
            f"--to {target}: a frame holds a batch, and the manifest, of version 0.1.0, does not say where one ends.\n"
            "Compress the lines with zstd or gzip, as any file of lines; report, export and compare read them too."
        )
    read: dict[str, Any] = {name: value for name, value in known.as_read.items() if name != "progress"}
    read["identity"] = {name: value for name, value in read["identity"].items() if name != "packing"}
    return replace(
        known,
        identity=replace(known.identity, packing=UNSET if how is None else how),
        about=replace(known.about, command=_to_go_on(known.about.command, target)).with_order(known.about.example_ids),
        progress=UNSET,
        as_read=read,
    )


def _to_go_on(command: str, target: Path) -> str:
    """The run's command, with the copy for its output file, which one writer goes on with."""
    try:
        words = shlex.split(command)
        for option in ("--writers", "--shard"):
            if option in words:
                at = words.index(option)
                del words[at : at + 2]
        at = words.index("--output-file") + 1
    except ValueError:  # the command of somebody's own program
        return command
    return " ".join(map(shell_word, [*words[:at], str(target.absolute()), *words[at + 1 :]]))


def _expect_nothing_beside(target: Path) -> None:
    for beside in (marks_path(target), order_path(target), residuals_path(target)):
        if os.path.lexists(beside):
            raise UsageError(
                f"--to: {beside} would belong to the copy, and is there already.\nMove it away, or name another file."
            )


def _copy_lines(parts: Sequence[Run], manifest: Manifest, temporary: Path) -> tuple[Extent, str, list[int]]:
    """The copy's extent, the digest of its lines as text, and how many lines were read of every part that was read."""
    extent, digest, read = Extent(), xxhash.xxh3_128(), list[int]()
    lines = _in_order(parts, read)
    how = manifest.identity.packing
    with temporary.open("wb") as stream:
        for batch in _stretches(lines, manifest):
            raw: Sequence[Piece] = batch if how is UNSET else [pack(batch, how)]
            stream.writelines(raw)
            extent.add(*raw, lines=len(batch))
            for line in batch:
                digest.update(line)
        deque(lines, maxlen=0)  # whatever follows the plan's end is looked at too
    return extent, digest.hexdigest(), read


def _in_order(parts: Sequence[Run], read: list[int]) -> Iterator[bytes]:
    """The lines of the parts, up to the end of the first that is not finished; how many of each is added to `read`."""
    for part in parts:
        extent = Extent(part.manifest.progress)
        for line, _ in shown(part.records(extent=extent), part):
            yield line
        read.append(extent.lines)
        if extent.lines < part.planned:
            return


def _stretches(lines: Iterator[bytes], manifest: Manifest) -> Iterator[list[bytes]]:
    """Lines as the copy has them: one by one, or a whole batch's in a frame."""
    if not manifest.packed:
        yield from ([line] for line in lines)
        return
    for begun, end in pairwise([0, *manifest.about.batch_ends]):
        batch = list(islice(lines, end - begun))
        if len(batch) < end - begun:
            return
        yield batch


def _expect_the_same(copy: Path, digest: str, target: Path) -> None:
    found = xxhash.xxh3_128()
    for stretch in read_stretches(copy):
        found.update(stretch.text)
    if found.hexdigest() != digest:
        raise LayerscopeError(
            f"{target} does not hold what was written to it: the disk or the memory fails. It was removed.\n"
            "Name a file on another disk."
        )


def _copy_residuals(
    parts: Sequence[Run], read: Sequence[int], target: Path, manifest: Manifest, lines: int
) -> dict[int, str] | UnsetType | None:
    """Copies the rows of so many lines; gives what the manifest notes of them.

    Args:
        read: lines of the parts.
    """
    of_copy = Layout.of(target, manifest)
    if not of_copy.layers:
        return UNSET
    if not lines:
        return None
    residuals_path(target).mkdir()
    digests = dict[int, str]()
    for layer in of_copy.layers:
        digest, left = xxhash.xxh3_128(), lines
        with of_copy.file(layer).open("xb") as stream:
            stream.write(of_copy.header())
            for part, of_part in zip(parts, read, strict=False):
                for piece in _rows(part, layer, min(of_part, left)):
                    digest.update(piece)
                    stream.write(piece)
                left -= min(of_part, left)
            stream.flush()
            os.fsync(stream.fileno())
        digests[layer] = digest.hexdigest()
    sync_folder(residuals_path(target))
    return digests


def _rows(part: Run, layer: int, lines: int) -> Iterator[Piece]:
    """The rows of so many lines of a layer, held against what is noted of them."""
    if not lines:
        return
    layout = Layout.of(part.path, part.manifest)
    descriptor, start = open_layer(layout, layer, lines, READING)
    noted_lines, digests = noted_digests(part.manifest.progress)
    digest, row = xxhash.xxh3_128(), layout.row_bytes
    try:
        for first, last in pairwise([0, *sorted({min(noted_lines, lines), lines})]):
            for piece in chunks(descriptor, start + first * row, (last - first) * row):
                digest.update(piece)
                yield piece
            if last == noted_lines and digests and digest.hexdigest() != digests[layer]:
                raise changed(layout.file(layer), noted_lines, READING)
    finally:
        os.close(descriptor)
