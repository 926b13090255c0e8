"""The dense residuals of a run, as the run writes them: a row for every line, on the disk before the line is written.

So whatever a killed run leaves has a row for every line at least; what lies behind is cut when a run goes on.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from layerscope.errors import LayerscopeError
from layerscope.files import begin_sync, sync_data, sync_folder, write_pieces
from layerscope.records.advice import RUNNING
from layerscope.records.manifest.noted import Progress
from layerscope.records.reading.residuals import (
    Array,
    Layout,
    changed,
    chunks,
    noted_digests,
    open_layer,
    residuals_path,
)


@dataclass(frozen=True)
class ResidualRows:
    """The residuals of some lines, where the encoders put them; a layer's are joined when they are written."""

    layers: Sequence[Array] = ()
    """Of every layer [S, d_model], of all lists of features of one token; none where no line has any."""
    lists: Sequence[tuple[int, ...] | None] = ()
    """Of every line, which of these: of the positive solution, reading by reading, then the negative's. None for an
    error."""
    clamped: bool = False
    """Some numbers were beyond what the number format holds."""

    def behind(self, lines: int) -> "ResidualRows":
        """Without so many at the beginning."""
        return ResidualRows(self.layers, self.lists[lines:], self.clamped)

    def line(self, number: int) -> "ResidualRows":
        """One alone."""
        return ResidualRows(self.layers, self.lists[number : number + 1], self.clamped)

    def joined(self, number: int, layout: Layout) -> memoryview:
        """Of the layer of this number [lines, readings, 2, d_model], as bytes."""
        rows = np.full(layout.shape(len(self.lists)), np.nan, layout.dtype)
        places = [place for place, of_line in enumerate(self.lists) if of_line is not None]
        if places:
            lists: NDArray[np.int64] = np.array([self.lists[place] for place in places])
            rows[places] = self.layers[number][lists.reshape(-1, 2, len(layout.readings)).swapaxes(1, 2)]
        return rows.view(np.uint8).reshape(-1).data


NO_ROWS = ResidualRows()


@dataclass
class _LayerFile:
    layer: int
    path: Path
    descriptor: int
    start: int
    """Where the rows begin."""
    digest: Any = field(default_factory=xxhash.xxh3_128)
    """Of the rows that count as written."""
    ahead: Any = None
    """Of those too that were written since."""


class ResidualFiles:
    """The files of all layers; where no residuals are kept there are none, and nothing happens."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._files: list[_LayerFile] = []
        self._lines = self._ahead = 0
        self._digests_known = True

    @property
    def digests(self) -> dict[int, str] | UnsetType | None:
        """What the manifest notes: by layer, of the rows of the lines so far; None where nothing of them may be."""
        if not self._layout.layers:
            return UNSET
        return {file.layer: file.digest.hexdigest() for file in self._files if self._digests_known} or None

    def recover(self, lines: int, errors: Sequence[int], noted: Progress | UnsetType) -> None:
        """Opens what is there to go on behind so many lines, and cuts what lies behind.

        Args:
            errors: the lines with an error, from 0.
            noted: what the manifest says.

        Raises:
            LayerscopeError: residuals are missing, or are not those that were written.
            OSError: the disk fails.
        """
        for layer in self._layout.layers if lines else ():
            descriptor, start = open_layer(self._layout, layer, lines, RUNNING, os.O_RDWR | os.O_NOFOLLOW)
            self._files.append(_LayerFile(layer, self._layout.file(layer), descriptor, start))
        self._lines = lines
        noted_lines, digests = noted_digests(noted)
        if not digests:  # perhaps of a run that was cut off while it computed lines once more
            for number in errors:
                self.replace(number, ResidualRows(lists=[None]))
        checked = noted_lines if digests and noted_lines <= lines else 0  # lines that are gone are written again
        for file in self._files:
            self._read(file, 0, checked)
            if checked and file.digest.hexdigest() != digests[file.layer]:
                raise changed(file.path, checked, RUNNING)
            self._read(file, checked, lines)
        self.cut()

    def _read(self, file: _LayerFile, first: int, last: int) -> None:
        row = self._layout.row_bytes
        for piece in chunks(file.descriptor, file.start + first * row, (last - first) * row):
            file.digest.update(piece)

    def begin(self) -> None:
        """Makes the files anew where there is no line yet; raises OSError."""
        if self._files or not self._layout.layers:
            return
        folder = residuals_path(self._layout.path)
        folder.mkdir(exist_ok=True)
        for entry in list(folder.iterdir()):  # of a run that never wrote a line
            entry.unlink()
        header = self._layout.header()
        try:
            for layer in self._layout.layers:
                path = self._layout.file(layer)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
                self._files.append(_LayerFile(layer, path, descriptor, len(header)))
                write_pieces(descriptor, [header])
            sync_folder(folder)
            sync_folder(folder.parent)
        except OSError:
            self.close()  # all are made anew, should there be another try
            raise

    def append(self, rows: ResidualRows) -> None:
        """Writes the rows of the lines that follow and waits until they are on the disk; raises OSError."""
        before = self._lines * self._layout.row_bytes
        for number, file in enumerate(self._files):
            joined = rows.joined(number, self._layout)
            file.ahead = file.digest.copy()
            file.ahead.update(joined)
            write_pieces(file.descriptor, [joined])
            begin_sync(file.descriptor, file.start + before, len(joined))
        for file in self._files:
            sync_data(file.descriptor, file.start + before)
        self._ahead = self._lines + len(rows.lists)

    def join(self) -> None:
        """What was appended counts: its lines are written."""
        for file in self._files:
            file.digest = file.ahead
        self._lines = self._ahead

    def begin_replacing(self) -> bool:
        """Rows are about to be replaced: nothing of them may be noted until that has ended. Whether there are any."""
        self._digests_known = False
        return bool(self._files)

    def replace(self, number: int, rows: ResidualRows) -> None:
        """Writes the row of a line anew; raises OSError."""
        for layer, file in enumerate(self._files):
            joined = rows.joined(layer, self._layout)
            place = file.start + number * self._layout.row_bytes
            while joined:
                written = os.pwrite(file.descriptor, joined, place)
                joined, place = joined[written:], place + written

    def end_replacing(self) -> None:
        """Reads all rows anew; raises OSError."""
        for file in self._files:
            file.digest = xxhash.xxh3_128()
            self._read(file, 0, self._lines)
        self._digests_known = True

    def sync(self) -> None:
        """Waits until all is on the disk; raises OSError."""
        for file in self._files:
            os.fsync(file.descriptor)

    def cut(self) -> None:
        """Removes what lies behind the rows that count; raises OSError."""
        for file in self._files:
            end = file.start + self._lines * self._layout.row_bytes
            os.ftruncate(file.descriptor, end)
            os.lseek(file.descriptor, end, os.SEEK_SET)

    def expect_untouched(self, lines: int) -> None:
        """
        Args:
            lines: of the output file, which has a row each.

        Raises:
            LayerscopeError: a file is not there any more, or another one, or was written to by somebody else.
        """
        for file in self._files:
            size = file.start + lines * self._layout.row_bytes
            held = os.fstat(file.descriptor)
            try:
                sound = os.path.samestat(held, file.path.stat()) and held.st_size == size
            except OSError:
                sound = False
            if not sound:
                raise LayerscopeError(
                    f"{file.path} is not what the run has written: somebody moved or changed it. The run stops.\n"
                    f"{RUNNING.broken}"
                )

    def close(self) -> None:
        """Lets go of the files, which stay."""
        for file in self._files:
            os.close(file.descriptor)
        self._files = []
