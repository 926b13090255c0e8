"""What actors answer, and how they compute: what the driver and the actors must both know, without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from layerscope.engine.logs import Span
from layerscope.numerics import precision
from layerscope.numerics.memory import keep_freed_memory
from layerscope.planning.node import Node
from layerscope.records.lines import LayerBlock, Outcome

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

    outcomes: list[Outcome]
    halved: bool
    tokens: int
    """That the model read."""
    span: Span


class Encoded(NamedTuple):
    """What the driver reads of an encoded block."""

    block: LayerBlock
    span: Span
