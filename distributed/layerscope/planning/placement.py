"""Who works where, once it is decided: a seat for every actor, with its node and its share of CPUs and GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.formatting import ranges
from layerscope.planning.node import Node


@dataclass(frozen=True)
class Share:
    """What one actor takes of a machine, as Ray counts it."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True)
class Seat:
    """A place for one actor."""

    block: int | None
    """The layer block of an encoder; None for a Gemma actor."""
    node: Node | None
    """Where there is room for it; None while it waits for a node that joins."""
    share: Share


@dataclass(frozen=True)
class Placement:
    """Who works where."""

    device: str
    """`cuda` or `cpu`."""
    kinds: tuple[str, ...]
    """The kinds of GPU or processor among the nodes: what the bytes of the file may depend on."""
    accelerator: str
    """The one GPU type, as Ray names it, that actors are pinned to; empty where there is none or several."""
    blocks: tuple[tuple[int, ...], ...]
    """The layers of each block."""
    seats: tuple[Seat, ...]
    """Gemma actors first."""
    lines: tuple[str, ...]
    """Every seat, and the memory that is needed and there, for people."""

    @property
    def hardware(self) -> str:
        """One name, or all kinds there are: on mixed hardware the same question may get other last digits."""
        return " and ".join(self.kinds)

    @property
    def gemma_actors(self) -> int:
        return sum(seat.block is None for seat in self.seats)

    @property
    def gemma(self) -> Share:
        """What each Gemma actor takes."""
        return self.seats[0].share

    @property
    def encoders_per_block(self) -> int:
        return sum(seat.block == 0 for seat in self.seats)


def split(layers: Sequence[int], n_blocks: int) -> tuple[tuple[int, ...], ...]:
    """Contiguous blocks of nearly equal size, the larger ones first; no more of them than layers, and none without."""
    if not layers:
        return ()
    n_blocks = min(n_blocks, len(layers))
    size, larger = divmod(len(layers), n_blocks)
    blocks, start = [], 0
    for block in range(n_blocks):
        end = start + size + (block < larger)
        blocks.append(tuple(layers[start:end]))
        start = end
    return tuple(blocks)


def kinds(nodes: Sequence[Node], device: str) -> tuple[str, ...]:
    return tuple(sorted(set().union(*(node.kinds(device) for node in nodes))))


def layers_text(blocks: Sequence[Sequence[int]], which: Sequence[int]) -> str:
    return " | ".join(ranges(blocks[block]) for block in which)


def actors_line(node: Node, tasks: Sequence[str], needed: int, memory: int) -> list[str]:
    """Who works here on how much memory, in a line; none where nobody does."""
    here = ", ".join(task for task in tasks if task)
    return [f"{node.name}: {here}; memory {gib(needed)} of {gib(memory)}"] if here else []


def waiting_lines(count: int) -> list[str]:
    return [f"{count} more Gemma: as nodes join"] if count else []


def gib(size: int) -> str:
    """For people, to a tenth; the little that a tiny model takes is not nothing."""
    tenths = f"{size / (1 << 30):.1f}"
    return "under 0.1 GiB" if tenths == "0.0" else f"{tenths} GiB"
