"""A machine that may take actors, and its GPUs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FIRST_WITH_BFLOAT16 = (8, 0)  # compute capability: Ampere's; older cards take several times as long over it


@dataclass(frozen=True)
class Gpu:
    """A GPU, or the slice of one that a process sees as its own (MIG)."""

    name: str
    memory: int
    """Bytes."""
    free: int | None = None
    """Bytes that no process holds; None where that cannot be known."""
    uuid: str = ""
    capability: tuple[int, int] = FIRST_WITH_BFLOAT16
    """CUDA's compute capability."""

    @property
    def room(self) -> int:
        """Bytes that a run may count on."""
        return self.memory if self.free is None else min(self.free, self.memory)


@dataclass(frozen=True)
class Node:
    """A machine that may take actors."""

    name: str
    cpus: int
    memory: int
    """Bytes."""
    gpus: tuple[Gpu, ...] = ()
    processor: str = ""
    identity: str = ""
    """Ray's id of the node; empty for a machine on which no Ray runs yet."""
    accelerator: str = ""
    """Ray's word for the type of its GPUs, by which actors can be pinned to it; empty where Ray knows none."""
    software: tuple[tuple[str, str], ...] = ()
    """Names and versions of the packages whose versions change numbers."""
    allowed: int | None = None
    """CPUs that a process there may use, where Ray was told of another number: `cpus` is what Ray gives out."""
    bfloat16: bool = False
    """Its processor multiplies bfloat16 numbers itself, so that encoders have their weights in that format too."""
    trouble: str = ""
    """Why GPUs that seem to be there cannot be used, as a sentence; empty where there are none or they can."""

    @property
    def cores(self) -> int:
        """CPUs that threads of one actor find at most."""
        return self.cpus if self.allowed is None else max(1, min(self.cpus, self.allowed))

    def kinds(self, device: str) -> set[str]:
        """The kinds of GPU or processor that actors meet here."""
        return {gpu.name for gpu in self.gpus} if device == "cuda" else {self.processor or "CPU"}

    def unlike(self, device: str, kinds: Sequence[str], software: Mapping[str, str]) -> str:
        """Why it must not take part in a run that was begun on such hardware and versions; empty where it may."""
        other = sorted(self.kinds(device) - set(kinds))
        other += [f"{name} {version}" for name, version in self.software if software[name] != version]
        if not other:
            return ""
        return f"it has {', '.join(other)}, which this run was not begun with, and its numbers may differ."


def gpu_types(nodes: Sequence[Node]) -> Counter[str]:
    """How many GPUs there are of each kind."""
    return Counter(gpu.name for node in nodes for gpu in node.gpus)
