"""The dense residuals beside an output file: where they lie, what form they have, and reading them.

`NAME.residuals/` has a file for every layer, `layer_LL.npy`, an array [lines, readings, 2, d_model] with a row for
every line of the output file, in its order: first the positive solution's, then the negative's. That of a line with an
error is NaN. The header says the shape of the finished file from the start, so that
`numpy.load(..., mmap_mode="r")` opens that; what is there of an unfinished one is read here.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from layerscope.config import READINGS, ResidualFormat
from layerscope.errors import LayerscopeError, UsageError, remedy
from layerscope.files import open_plain
from layerscope.formatting import count_of, ranges
from layerscope.questions.reading import MAX
from layerscope.records.advice import READING, Advice
from layerscope.records.line.record import Unscored
from layerscope.records.manifest.manifest import Manifest
from layerscope.records.manifest.noted import Progress
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import open_run, user_paths
from layerscope.records.reading.stretches import read_stretches

Array = NDArray[np.floating[Any]]

RESIDUAL_DTYPES: Final[Mapping[ResidualFormat, np.dtype[Any]]] = {
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}
_READ_BYTES = 1 << 20
_ROWS_AT_ONCE = 256
_MAGIC: Final = b"\x93NUMPY"


def residuals_path(path: Path) -> Path:
    """The folder in which the residuals of an output file lie."""
    return path.with_name(path.name + ".residuals")


def is_residuals(folder: Path) -> bool:
    """Whether a run made this folder: it has files of layers, and nothing else."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if not (entry.match("layer_[0-9]*.npy") and entry.is_file() and not entry.is_symlink()):
            return False
        with entry.open("rb") as stream:
            if not _MAGIC.startswith(stream.read(len(_MAGIC))):
                return False
    return folder.is_dir()


def residual_readings(names: Sequence[str]) -> tuple[str, ...]:
    """The readings of one token each: `max` takes many together, and no residual is its own."""
    return tuple(name for name in READINGS if name in names and name != MAX)


@dataclass(frozen=True)
class Layout:
    """The form of the residuals of one output file."""

    path: Path
    """The output file."""
    layers: tuple[int, ...]
    """Empty where the run keeps no residuals."""
    readings: tuple[str, ...]
    lines: int
    """Of the finished file."""
    d_model: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, path: Path, manifest: Manifest) -> "Layout":
        of_records = manifest.identity.ablation is UNSET  # ablations of a run that kept some are beside none
        kept, about = manifest.identity.settings.residuals if of_records else None, manifest.about
        return cls(
            path,
            tuple(about.layers) if kept else (),
            residual_readings(manifest.readings),
            manifest.identity.plan.questions,
            about.d_model,
            RESIDUAL_DTYPES[kept or "float32"],
        )

    @property
    def row_bytes(self) -> int:
        """Of one line, in the file of one layer."""
        return len(self.readings) * 2 * self.d_model * self.dtype.itemsize

    def size(self, lines: int) -> int:
        """Bytes of so many rows in all files."""
        return len(self.layers) * lines * self.row_bytes

    def file(self, layer: int) -> Path:
        return residuals_path(self.path) / f"layer_{layer:02}.npy"

    def shape(self, lines: int) -> tuple[int, int, int, int]:
        return lines, len(self.readings), 2, self.d_model

    def header(self) -> bytes:
        """How every file begins."""
        stream = io.BytesIO()
        said = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape(self.lines)}
        np.lib.format.write_array_header_1_0(stream, said)
        return stream.getvalue()


def noted_digests(noted: Progress | UnsetType) -> tuple[int, dict[int, str]]:
    """Of how many lines the manifest notes something, and by layer the digest of their rows, if that is known."""
    if noted is UNSET:
        return 0, {}
    return noted.lines, noted.residuals if isinstance(noted.residuals, dict) else {}


def open_layer(layout: Layout, layer: int, lines: int, advice: Advice, flags: int = os.O_RDONLY) -> tuple[int, int]:
    """Opens the file of a layer: its descriptor, and where its rows begin.

    Args:
        lines: of the output file; there must be as many rows, or more.

    Raises:
        LayerscopeError: it is not there, too short, or another array.
    """
    path, descriptor = layout.file(layer), -1
    try:
        descriptor = open_plain(path, flags)
        start = _rows_begin(descriptor, layout)
        rows = (os.fstat(descriptor).st_size - start) // layout.row_bytes
        if rows < lines:
            raise ValueError(f"has {count_of(rows, 'row')}, and {layout.path.name} {count_of(lines, 'line')}")
    except FileNotFoundError:
        raise LayerscopeError(
            f"{path} is not there: the residuals of layer {layer} of {layout.path.name}.\n{advice.broken}"
        ) from None
    except (OSError, ValueError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, OSError):
            told = f"cannot be read: {error.strerror or error}.\n{remedy(error, advice.broken)}"
        else:
            told = f"{error}.\n{advice.broken}"
        raise LayerscopeError(f"{path} {told}") from error
    return descriptor, start


def _rows_begin(descriptor: int, layout: Layout) -> int:
    """Where the rows begin.

    Raises:
        ValueError: it is another array, or none.
    """
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        try:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError("another version")
            shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
        except ValueError as error:
            raise ValueError("is no array of numpy's that a run has written") from error
        if (shape, in_columns, dtype) != (layout.shape(layout.lines), False, layout.dtype):
            raise ValueError(f"holds {shape} of {dtype}, and not {layout.shape(layout.lines)} of {layout.dtype}")
        return stream.tell()


def chunks(descriptor: int, start: int, size: int, at_once: int = _READ_BYTES) -> Iterator[bytes]:
    """Bytes of an open file, piece by piece; raises OSError where they end too soon."""
    end = start + size
    while start < end:
        piece = os.pread(descriptor, min(at_once, end - start), start)
        if not piece:
            raise OSError(f"it ends {count_of(end - start, 'byte')} too soon")
        yield piece
        start += len(piece)


def changed(path: Path, lines: int, advice: Advice) -> LayerscopeError:
    """The error of rows that are not those that were written."""
    return LayerscopeError(
        f"{path} was changed after it was written: its first {count_of(lines, 'row')} are others.\n{advice.broken}"
    )


def expect_rows(layout: Layout, lines: int) -> None:
    """
    Raises:
        LayerscopeError: a file is missing, or has not a row for every line.
    """
    for layer in layout.layers if lines else ():
        descriptor, _ = open_layer(layout, layer, lines, READING)
        os.close(descriptor)


def read_residuals(
    path: str | PathLike[str] | Sequence[str | PathLike[str]], layer: int, reading: str = "final"
) -> Array:
    """The residual stream after a layer, where a reading takes it, of every line of a file.

    Args:
        path: of the output file of a run (`.jsonl`), finished or growing, or of the shards of one job, in any order.
        layer: one of the file's.
        reading: one of the file's but `max`.

    Returns:
        [lines, 2, d_model] in the number format of the run, mapped from the disk (several files are read and joined, in
        the order of the plan): rows in the order of the lines, of each the positive (right) solution, then the
        negative one. NaN where a line has an error.

    Raises:
        UsageError: there is no such file, or its run kept no residuals, or none of this layer or reading.
        LayerscopeError: residuals are missing, or are not those that were written.
    """
    run, number = _kept(path, reading)
    layers = Layout.of(run.path, run.manifest).layers
    if not isinstance(layer, Integral) or layer not in layers:
        raise UsageError(f"{run.path} has no layer {layer!r}.\nIt has {ranges(layers)}.")
    arrays = [_mapped(part, layer)[:, number] for part in run.parts if isinstance(part, Run)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def expect_residuals(path: str | PathLike[str] | Sequence[str | PathLike[str]], reading: str) -> None:
    """Looks whether there are residuals of a reading beside files, and reads none.

    Raises:
        UsageError: their run kept none.
        LayerscopeError: a file is missing, or has not a row for every line.
    """
    run, _ = _kept(path, reading)
    for part in run.parts:
        if isinstance(part, Run):
            expect_rows(Layout.of(part.path, part.manifest), part.manifest.lines_noted())


def _kept(path: str | PathLike[str] | Sequence[str | PathLike[str]], reading: str) -> tuple[Run, int]:
    """The run, and the place of a reading among those of its residuals."""
    run = open_run(user_paths(path))
    layout = Layout.of(run.path, run.manifest)
    if not layout.layers:
        raise UsageError(
            f"{run.path} was made without residuals.\nRun again with --residuals float16 and another --output-file."
        )
    if reading not in layout.readings:
        raise UsageError(f"{run.path} has no residuals of the reading {reading}.\nIt has {', '.join(layout.readings)}.")
    return run, layout.readings.index(reading)


def _mapped(run: Run, layer: int) -> Array:
    """All rows of a layer that belong to a line of one file, held against what the manifest notes of them."""
    layout = Layout.of(run.path, run.manifest)
    noted, digests = noted_digests(run.manifest.progress)
    whole = run.manifest.lines_noted() == run.planned
    lines = run.planned if whole else sum(stretch.n_lines for stretch in read_stretches(run.path))
    if not lines:
        return np.empty(layout.shape(0), layout.dtype)
    descriptor, start = open_layer(layout, layer, lines, READING)
    with os.fdopen(descriptor, "rb") as stream:
        if digests and noted <= lines:
            digest = xxhash.xxh3_128()
            for piece in chunks(descriptor, start, noted * layout.row_bytes):
                digest.update(piece)
            if digest.hexdigest() != digests[layer]:
                raise changed(layout.file(layer), noted, READING)
        rows: Array = np.memmap(stream, layout.dtype, "r" if digests else "c", start, layout.shape(lines))
    if not digests:  # a run that was cut off while it computed lines once more may have put numbers there
        rows[[number for number, (_, record) in enumerate(run.records()) if isinstance(record, Unscored)]] = np.nan
    return rows


def check_residuals(run: Run, scored: Sequence[bool]) -> None:
    """Reads all rows of one file and checks them against its manifest and its lines.

    Args:
        scored: of every line, whether it has no error.

    Raises:
        LayerscopeError: residuals are missing, or are not those that were written, or not those of the lines.
    """
    for layer in Layout.of(run.path, run.manifest).layers:
        rows = _mapped(run, layer)
        for first in range(0, len(scored), _ROWS_AT_ONCE):
            has = np.array(scored[first : first + _ROWS_AT_ONCE])
            numbers = rows[first : first + len(has)].reshape(len(has), -1)
            off = np.where(has, ~np.isfinite(numbers).all(axis=1), ~np.isnan(numbers).all(axis=1))
            if off.any():
                line = int(off.argmax())
                what = "are not all finite" if has[line] else "are there, though it has an error"
                raise LayerscopeError(
                    f"{run.path}, line {first + line + 1}: its residuals of layer {layer} {what}.\n{READING.broken}"
                )
