"""From what actors answered of a batch to the lines of the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from layerscope.engine.batches.answers import Scores
from layerscope.engine.cluster.logs import Span
from layerscope.engine.interface import Reference
from layerscope.records.line.feature_lists import LayerBlock
from layerscope.records.line.lines import ErrorLine, Frame, Outcome, WholeLine, join_record, settle
from layerscope.records.manifest.identity import Packing
from layerscope.records.totals import Counts
from layerscope.records.writing.appending import Line as Written
from layerscope.records.writing.packing import Packed, pack, unpack
from layerscope.records.writing.residual_files import NO_ROWS, ResidualRows


@dataclass
class Scored:
    """A batch between its forward pass and the file."""

    scores: Scores
    reference: Reference
    """To these, for whoever compresses the lines."""
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
    """None at all where the batch is compressed."""
    counts: Counts | None
    """None for a line that holds no record: an error line, or one of ablations."""
    is_error: bool = False


class BatchLines(NamedTuple):
    """The lines of a batch, in the order of the plan."""

    batch: int
    lines: list[Line]
    halved: bool
    tokens: int
    residuals: ResidualRows = NO_ROWS
    """Of these lines, if the run keeps any."""
    packed: Packed | None = None
    """The lines, compressed."""

    @property
    def nbytes(self) -> int:
        """That the file grows by."""
        if self.packed is not None:
            return len(self.packed.data)
        return sum(len(piece) for line in self.lines for piece in line.pieces)

    def to_append(self, known: int) -> list[Written]:
        """What the file lacks that has so many of these lines."""
        if self.packed is None:
            return [line.pieces for line in self.lines[known:]]
        assert not known, "a frame is there as a whole, or not at all"
        return [self.packed]

    def texts(self) -> list[bytes]:
        """Every line as a whole."""
        if self.packed is None:
            return [b"".join(line.pieces) for line in self.lines]
        return unpack(self.packed)


class PackedLines(NamedTuple):
    """What the driver reads of a batch whose lines are compressed."""

    lines: BatchLines
    span: Span


def scored(scores: Scores, reference: Reference, activations: list[Reference | None], now: float) -> Scored:
    """A batch that was scored a moment ago."""
    nothing_to_encode = all(isinstance(outcome, ErrorLine) for outcome in scores.outcomes)
    return Scored(
        scores, reference, activations, [] if nothing_to_encode else [None] * len(activations), complete_since=now
    )


def batch_lines(batch: int, scores: Scores, blocks: Sequence[LayerBlock]) -> BatchLines:
    """The lines of a batch, all of whose blocks are there."""
    settled = [settle(outcome, blocks) for outcome in scores.outcomes]
    lines = [_line(outcome, blocks) for outcome in settled]
    halved = scores.halved or any(block.halved for block in blocks)
    frames = [None if isinstance(outcome, WholeLine) else outcome for outcome in settled]
    return BatchLines(batch, lines, halved, scores.tokens, residual_rows(frames, blocks))


def packed(of: BatchLines, how: Packing) -> BatchLines:
    """The same with the lines compressed, to travel from one process to another."""
    frame = pack([piece for line in of.lines for piece in line.pieces], how)
    lines = [Line([], line.counts, line.is_error) for line in of.lines]
    return of._replace(lines=lines, packed=Packed(np.frombuffer(frame, np.uint8), len(lines)))


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
        return Line([outcome.line], None, isinstance(outcome, ErrorLine))
    counts = [block.active_counts[:, list(outcome.final_rows)] for block in blocks]
    active, cells = sum(int(count.sum()) for count in counts), sum(count.size for count in counts)
    return Line(join_record(outcome, blocks), Counts(outcome.correct, outcome.correct_per_character, active, cells))
