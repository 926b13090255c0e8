"""From what actors answered of a batch to the lines of the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from layerscope.engine.batches.answers import Scores
from layerscope.engine.cluster.logs import Span
from layerscope.engine.interface import Reference
from layerscope.records.line.feature_lists import LayerBlock
from layerscope.records.line.lines import ErrorLine, Frame, Outcome, WholeLine, join_record, settle
from layerscope.records.manifest.identity import Packing
from layerscope.records.totals import Counts, Totals
from layerscope.records.writing.appending import Line as Written
from layerscope.records.writing.packing import Packed, pack, unpack
from layerscope.records.writing.residual_files import NO_ROWS, ResidualRows


@dataclass
class Scored:
    """A batch between its forward pass and the file."""

    scores: Scores
    apart: Reference | None
    """To these with their outcomes, for whoever compresses the lines."""
    activations: list[Reference | None]
    """By block; dropped as soon as they are encoded."""
    blocks: list[Any]
    """By block; None until it is encoded. Mapped from the object store, not copied; where the lines are compressed the
    reference alone. None at all where no question can be scored."""
    nbytes: int = 0
    """Of all blocks."""
    packed: "BatchLines | None" = None
    """Compressed, where they are."""
    complete_since: float = 0.0

    @property
    def encoded(self) -> bool:
        return all(block is not None for block in self.blocks)


class Line(NamedTuple):
    """One line of the file."""

    pieces: list[bytes | memoryview]
    counts: Counts | None
    """None for an error line."""


class BatchLines(NamedTuple):
    """The lines of a batch, in the order of the plan."""

    batch: int
    lines: list[Line]
    """None at all where they are compressed."""
    totals: Totals
    """What they come to."""
    halved: bool
    tokens: int
    residuals: ResidualRows = NO_ROWS
    """Of these lines, if the run keeps any."""
    packed: Packed | None = None
    """The lines, compressed."""

    @classmethod
    def of(cls, batch: int, lines: list[Line], halved: bool, tokens: int, residuals: ResidualRows = NO_ROWS) -> Self:
        """Those that are not compressed."""
        return cls(batch, lines, _totals(lines), halved, tokens, residuals)

    @property
    def nbytes(self) -> int:
        """That the file grows by."""
        if self.packed is not None:
            return len(self.packed.data)
        return sum(len(piece) for line in self.lines for piece in line.pieces)

    def behind(self, known: int) -> Self:
        """What a file lacks that has so many of these lines."""
        if not known:
            return self
        assert self.packed is None, "a frame is there as a whole, or not at all"
        lines = self.lines[known:]
        return self._replace(lines=lines, totals=_totals(lines), residuals=self.residuals.behind(known))

    def to_append(self) -> list[Written]:
        """What a file grows by."""
        return [line.pieces for line in self.lines] if self.packed is None else [self.packed]

    def texts(self) -> list[bytes]:
        """Every line as a whole."""
        if self.packed is None:
            return [b"".join(line.pieces) for line in self.lines]
        return unpack(self.packed)


_OF_NO_RECORD = Counts(False, False, 0, 0)  # a line of ablations, which whoever writes it counts


def _totals(lines: Sequence[Line]) -> Totals:
    totals = Totals()
    for line in lines:
        totals.add_counts(line.counts)
    return totals


class PackedLines(NamedTuple):
    """What the driver reads of a batch whose lines are compressed."""

    lines: BatchLines
    span: Span


def scored(scores: Scores, values: Sequence[Reference | None], now: float) -> Scored:
    """A batch that was scored a moment ago.

    Args:
        values: those beside the scores.
    """
    apart, activations = (values[0], values[1:]) if scores.outcomes is None else (None, values)
    blocks = [None] * len(activations) if scores.to_encode else []
    return Scored(scores, apart, list(activations), blocks, complete_since=now)


def batch_lines(batch: int, scores: Scores, blocks: Sequence[LayerBlock]) -> BatchLines:
    """The lines of a batch, all of whose blocks are there."""
    assert scores.outcomes is not None
    settled = [settle(outcome, blocks) for outcome in scores.outcomes]
    lines = [_line(outcome, blocks) for outcome in settled]
    halved = scores.halved or any(block.halved for block in blocks)
    frames = [None if isinstance(outcome, WholeLine) else outcome for outcome in settled]
    return BatchLines.of(batch, lines, halved, scores.tokens, residual_rows(frames, blocks))


def packed(of: BatchLines, how: Packing) -> BatchLines:
    """The same with the lines compressed, to travel from one process to another."""
    frame = pack([piece for line in of.lines for piece in line.pieces], how)
    return of._replace(lines=[], packed=Packed(np.frombuffer(frame, np.uint8), len(of.lines)))


def residual_rows(frames: Sequence[Frame | None], blocks: Sequence[LayerBlock]) -> ResidualRows:
    """The residuals of lines, None for an error line, among those that the encoders kept."""
    layers = [layer for block in blocks if block.residuals is not None for layer in block.residuals]
    lists = [
        None
        if frame is None or not layers
        else tuple(number for number in frame.rows_of_two if number < len(layers[0]))
        for frame in frames
    ]
    return ResidualRows(layers, lists, any(block.clamped for block in blocks))


def _line(outcome: Outcome, blocks: Sequence[LayerBlock]) -> Line:
    if isinstance(outcome, WholeLine):
        return Line([outcome.line], None if isinstance(outcome, ErrorLine) else _OF_NO_RECORD)
    counts = [block.active_counts[:, list(outcome.final_rows)] for block in blocks]
    active, cells = sum(int(count.sum()) for count in counts), sum(count.size for count in counts)
    return Line(join_record(outcome, blocks), Counts(outcome.correct, outcome.correct_per_character, active, cells))
