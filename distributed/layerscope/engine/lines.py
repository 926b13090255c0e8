"""From what actors answered of a batch to the lines of the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from layerscope.engine.answers import Scores
from layerscope.engine.interface import Reference
from layerscope.records.feature_lists import LayerBlock
from layerscope.records.lines import ErrorLine, Frame, Outcome, WholeLine, join_record, settle
from layerscope.records.residual_files import NO_ROWS, ResidualRows


@dataclass
class Scored:
    """A batch between its forward pass and the file."""

    scores: Scores
    activations: list[Reference | None]
    """By block; dropped as soon as they are encoded."""
    blocks: list[LayerBlock | None]
    """By block; mapped from the object store, not copied. None at all where no question can be scored."""
    complete_since: float = 0.0

    @property
    def complete(self) -> bool:
        return all(block is not None for block in self.blocks)


class Line(NamedTuple):
    """One line of the file, and what the summary counts of it."""

    pieces: list[bytes | memoryview]
    frame: Frame | None
    """None for a line that the driver did not put together: an error line, or one of ablations."""
    active_features: int = 0
    cells: int = 0
    is_error: bool = False


class BatchLines(NamedTuple):
    """The lines of a batch, in the order of the plan."""

    batch: int
    lines: list[Line]
    halved: bool
    tokens: int
    residuals: ResidualRows = NO_ROWS
    """Of these lines, if the run keeps any."""


def scored(scores: Scores, activations: list[Reference | None], now: float) -> Scored:
    """A batch that was scored a moment ago."""
    nothing_to_encode = all(isinstance(outcome, ErrorLine) for outcome in scores.outcomes)
    return Scored(scores, activations, [] if nothing_to_encode else [None] * len(activations), now)


def batch_lines(batch: int, of: Scored) -> BatchLines:
    """The lines of a complete batch."""
    blocks = [block for block in of.blocks if block is not None]
    lines = [_line(outcome, blocks) for outcome in of.scores.outcomes]
    halved = of.scores.halved or any(block.halved for block in blocks)
    return BatchLines(batch, lines, halved, of.scores.tokens, residual_rows([line.frame for line in lines], blocks))


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


def _line(outcome: Outcome, blocks: list[LayerBlock]) -> Line:
    outcome = settle(outcome, blocks)
    if isinstance(outcome, WholeLine):
        return Line([outcome.line], None, is_error=isinstance(outcome, ErrorLine))
    counts = [block.active_counts[:, list(outcome.final_rows)] for block in blocks]
    cells = sum(count.size for count in counts)
    return Line(join_record(outcome, blocks), outcome, sum(int(count.sum()) for count in counts), cells)
