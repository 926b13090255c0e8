"""A copy of an output file in which some lines are others."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from layerscope.files import write_pieces
from layerscope.records.appending import Formed
from layerscope.records.extent import Extent
from layerscope.records.manifest import Progress
from layerscope.records.residual_files import NO_ROWS, ResidualFiles, ResidualRows
from layerscope.records.run import read_lines


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
) -> tuple[Extent, Progress]:
    """Copies an output file, and replaces the rows of the lines that are replaced: first, because the copy is not the
    file yet.

    Args:
        descriptor: of the copy.
        replacements: in ascending order.
        formed: a line as the file has them.

    Returns:
        the copy's extent, and the note of what comes before the first line that is replaced.
    """
    wanted, nothing_more = iter(replacements), Replacement(-1, b"")
    replacement = next(wanted, nothing_more)
    extent, unchanged = Extent(), None
    extent.residuals = residuals.digests
    for line in read_lines(path):
        if extent.lines == replacement.number:
            unchanged = unchanged or extent.note()
            residuals.replace(replacement.number, replacement.residuals)
            line = b"".join(formed(replacement.line))
            replacement = next(wanted, nothing_more)
        write_pieces(descriptor, [line])
        extent.add(line)
    residuals.sync()
    return extent, unchanged or extent.note()
