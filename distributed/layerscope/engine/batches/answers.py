"""What actors answer, and how they compute: what the driver and the actors must both know, without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from layerscope.engine.cluster.logs import Span
from layerscope.numerics import precision
from layerscope.numerics.memory import keep_freed_memory
from layerscope.planning.node import Node
from layerscope.records.line.feature_lists import LayerBlock
from layerscope.records.line.lines import Frame, Outcome
from layerscope.saes.spans import Groups, Spans

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TorchSettings:
    """How an actor computes."""

    device: str
    dtype: str
    threads: int | None

    def apply(self) -> tuple[torch.device, torch.dtype]:
        """Sets this process up and gives the device and the number format."""
        import torch

        precision.apply()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device == "cpu":
            keep_freed_memory()
        return torch.device(self.device), getattr(torch, self.dtype)


class Arrival(NamedTuple):
    """What an actor says when its process is there, before it loads anything."""

    node: Node
    """As this process sees it: of its GPUs, the ones it was given."""
    node_id: str
    pid: int


class Scores(NamedTuple):
    """What the driver reads of a scored batch."""

    outcomes: list[Outcome] | None
    """None where all this is a second value, which the driver passes on to whoever compresses the lines."""
    to_encode: bool
    """Something of them lacks features."""
    halved: bool
    tokens: int
    """That the model read."""
    span: Span

    @classmethod
    def of(cls, outcomes: list[Outcome], halved: bool, tokens: int, span: Span) -> Self:
        """With the outcomes."""
        return cls(outcomes, any(isinstance(one, Frame) for one in outcomes), halved, tokens, span)


class Activations(NamedTuple):
    """What a Gemma actor hands to the encoders of a block; the driver passes it on."""

    residuals: NDArray[np.generic]  # [L, R, D] as `to_array` made it
    spans: Spans | None
    """Which rows are of which solution, where lists are made over several tokens."""
    gradients: NDArray[np.generic] | None = None  # [L, R, D] likewise
    groups: Groups | None = None
    """Which rows are of which group of tokens, where the margin is attributed."""


class Encoded(NamedTuple):
    """What the driver reads of an encoded block."""

    block: LayerBlock | None
    """None where it is a value of its own, which the driver passes on to whoever compresses the lines."""
    span: Span
    nbytes: int
    """Of the block."""
