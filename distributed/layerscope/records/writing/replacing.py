"""A copy of an output file in which some lines are others."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from layerscope.files import Piece, write_pieces
from layerscope.records.manifest.identity import Packing
from layerscope.records.manifest.noted import Progress
from layerscope.records.reading.stretches import read_stretches
from layerscope.records.writing.appending import Formed
from layerscope.records.writing.extent import Extent
from layerscope.records.writing.packing import pack
from layerscope.records.writing.residual_files import NO_ROWS, ResidualFiles, ResidualRows


class Replacement(NamedTuple):
    """What takes the place of a line."""

    number: int
    """From 0."""
    line: bytes
    residuals: ResidualRows = NO_ROWS


def copy_replaced(
    path: Path,
    descriptor: int,
    replacements: Iterable[Replacement],
    formed: Formed,
    residuals: ResidualFiles,
    packing: Packing | UnsetType,
    listed: bool,
) -> tuple[Extent, Progress]:
    """Copies an output file, and replaces the rows of the lines that are replaced: first, because the copy is not the
    file yet.

    Args:
        descriptor: of the copy.
        replacements: in ascending order.
        formed: a line as the file has them.
        packing: how the file has those of a batch, if it does.
        listed: whether the manifest has the marks of lines.

    Returns:
        the copy's extent, and the note of what comes before the first line that is replaced.
    """
    wanted, nothing_more = iter(replacements), Replacement(-1, b"")
    replacement = next(wanted, nothing_more)
    extent, unchanged = Extent(), None
    extent.residuals = residuals.digests
    for stretch in read_stretches(path):
        raw: Sequence[Piece] = stretch.raw
        if extent.lines <= replacement.number < extent.lines + stretch.n_lines:
            unchanged = unchanged or extent.note(listed)
            lines = list(stretch.lines)
            while extent.lines <= replacement.number < extent.lines + stretch.n_lines:
                residuals.replace(replacement.number, replacement.residuals)
                lines[replacement.number - extent.lines] = b"".join(formed(replacement.line))
                replacement = next(wanted, nothing_more)
            raw = lines if packing is UNSET else [pack(lines, packing)]
        write_pieces(descriptor, raw)
        extent.add(*raw, lines=stretch.n_lines)
    residuals.sync()
    return extent, unchanged or extent.note(listed)
