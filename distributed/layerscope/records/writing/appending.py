"""Whole lines behind what an output file holds, each with its mark: in the form that the file has them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from layerscope.files import Piece, begin_sync, write_pieces
from layerscope.records.line.lines import in_first_form
from layerscope.records.writing.extent import Extent
from layerscope.records.writing.marks import Marks
from layerscope.records.writing.packing import Packed

Line = bytes | Sequence[Piece] | Packed
"""One line of the file, its line end included: whole, or in pieces that follow one another, so that none is copied. Or
those of a batch, where the file has them compressed."""
Formed = Callable[[Line], Sequence[Piece]]
"""From a line to its pieces as the file has them."""

_SYNC_BYTES = 4 << 20  # after which the disk begins on what was written


def former(format: int) -> Formed:
    """How a file of a format has its lines: one that was begun in the first form goes on in it."""
    return partial(_formed, first=format == 1)


def _formed(line: Line, first: bool) -> Sequence[Piece]:
    if isinstance(line, Packed):
        return [line.data]
    pieces = [line] if isinstance(line, bytes) else line
    return in_first_form(pieces) if first else pieces


def append_lines(descriptor: int, size: int, lines: Iterable[Line], formed: Formed, more: Extent, marks: Marks) -> None:
    """Writes lines and their marks; raises OSError.

    Args:
        size: bytes that the file has.
        more: is told of every line.
    """
    begun = 0
    for line in lines:
        pieces = formed(line)
        more.add(*pieces, lines=line.lines if isinstance(line, Packed) else 1)
        marks.add(more.last_mark)
        write_pieces(descriptor, pieces)  # while the line is in the processor's cache
        if more.size - begun > _SYNC_BYTES:
            begin_sync(descriptor, size + begun, more.size - begun)
            begun = more.size
