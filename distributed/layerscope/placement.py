"""From the machines there are to who works where: how many actors, in which shares of CPUs and GPUs.

Pure: it sees numbers, not Ray. The shares are Ray's book-keeping; memory is checked here, because Ray does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.config import Config
from layerscope.errors import LayerscopeError

_GEMMA_GPUS_PER_ENCODER_GPU = 8  # encoding 26 layers at 16k costs about an eighth of the forward pass
_WORKING_BYTES = 2 << 30  # activations, logits and buffers of one Gemma actor at the default batch size
_SHARED_GPU_FOR_ENCODERS = 0.25  # of a GPU that Gemma and encoders share
_TINY_D_MODEL = 512  # below this a matrix product is too small to be worth a second thread


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int
    """Bytes."""


@dataclass(frozen=True)
class Node:
    """A machine that may take actors."""

    name: str
    cpus: int
    memory: int
    """Bytes."""
    gpus: tuple[Gpu, ...] = ()
    processor: str = ""


@dataclass(frozen=True)
class Share:
    """What one actor takes of a machine, as Ray counts it."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True)
class Needs:
    """What the weights take, in bytes at the dtypes of the run."""

    model: int
    sae_by_layer: dict[int, int]
    d_model: int


@dataclass(frozen=True)
class Placement:
    """Who works where."""

    device: str
    """`cuda` or `cpu`."""
    hardware: str
    """The kind of GPU or processor: what the bytes of the file may depend on."""
    gemma_actors: int
    gemma: Share
    blocks: tuple[tuple[int, ...], ...]
    """The layers of each block."""
    encoders_per_block: int
    encoder: Share
    memory_lines: tuple[str, ...]
    """What is needed and what is there, for people."""

    @property
    def n_encoders(self) -> int:
        return len(self.blocks) * self.encoders_per_block


def resolve_threads(config: Config, nodes: Sequence[Node], d_model: int) -> int:
    """Torch threads of each actor on a CPU: they change rounding, so they never depend on how many actors there are."""
    if isinstance(config.threads, int):
        return config.threads
    return 1 if d_model <= _TINY_D_MODEL else min(node.cpus for node in nodes)


def has_gpu(nodes: Sequence[Node]) -> bool:
    return any(node.gpus for node in nodes)


def place(config: Config, nodes: Sequence[Node], needs: Needs) -> Placement:
    """Decides who works where.

    Raises:
        LayerscopeError: the weights do not fit the memory there is.
    """
    layers = sorted(needs.sae_by_layer)
    gpus = [gpu for node in nodes for gpu in node.gpus]
    n_blocks = config.layer_blocks if isinstance(config.layer_blocks, int) else 4 if len(gpus) > 1 else 1
    blocks = split(layers, min(n_blocks, len(layers)))
    return _place_on_gpus(config, gpus, needs, blocks) if gpus else _place_on_cpus(config, nodes, needs, blocks)


def split(layers: Sequence[int], n_blocks: int) -> tuple[tuple[int, ...], ...]:
    """Contiguous blocks of nearly equal size, the larger ones first."""
    size, larger = divmod(len(layers), n_blocks)
    blocks, start = [], 0
    for block in range(n_blocks):
        end = start + size + (block < larger)
        blocks.append(tuple(layers[start:end]))
        start = end
    return tuple(blocks)


def _place_on_cpus(
    config: Config, nodes: Sequence[Node], needs: Needs, blocks: tuple[tuple[int, ...], ...]
) -> Placement:
    """A Gemma actor takes as many CPUs as it has threads, so that one too many waits for a node that joins later.

    Encoders work in short bursts and take none: they always find a place, and no batch waits for one.
    """
    gemma_actors = config.gemma_actors if isinstance(config.gemma_actors, int) else len(nodes)
    per_block = config.encoders_per_block if isinstance(config.encoders_per_block, int) else 1
    per_node = math.ceil(gemma_actors / len(nodes))
    saes = sum(needs.sae_by_layer.values())  # all encoders of a node map the same files
    needed, memory = per_node * needs.model + saes, min(node.memory for node in nodes)
    line = f"memory of a node: {per_node} x {_gib(needs.model)} model + {_gib(saes)} SAEs, of {_gib(memory)}"
    if needed > memory:
        raise LayerscopeError(
            f"The weights do not fit: {per_node} Gemma actor(s) on a node need {_gib(needs.model)} each and the SAEs "
            f"{_gib(saes)}, of {_gib(memory)} there.\n"
            "Use --dtype bfloat16, fewer --layers or --gemma-actors, or a larger machine."
        )
    threads = resolve_threads(config, nodes, needs.d_model)
    gemma = Share(min(threads, max(node.cpus for node in nodes)), 0)
    hardware = _kinds([node.processor or "CPU" for node in nodes])
    return Placement("cpu", hardware, gemma_actors, gemma, blocks, per_block, Share(0, 0), (line,))


def _place_on_gpus(config: Config, gpus: Sequence[Gpu], needs: Needs, blocks: tuple[tuple[int, ...], ...]) -> Placement:
    """Several GPUs: Gemma on GPUs of its own as far as they last, encoders on the others. One: both share it."""
    n_gpus = len(gpus)
    encoder_gpus = math.ceil(n_gpus / (_GEMMA_GPUS_PER_ENCODER_GPU + 1)) if n_gpus > 1 else 0
    gemma_actors = config.gemma_actors if isinstance(config.gemma_actors, int) else max(1, n_gpus - encoder_gpus)
    encoder_gpus = min(encoder_gpus, max(0, n_gpus - gemma_actors))
    per_block = config.encoders_per_block if isinstance(config.encoders_per_block, int) else max(1, encoder_gpus)
    n_encoders = len(blocks) * per_block
    shared = encoder_gpus == 0
    # Shares are of whole numbers of actors to a GPU: otherwise the last one would wait for ever for a place.
    gemma_per_gpu = math.ceil(gemma_actors / (n_gpus - encoder_gpus))
    encoders_per_gpu = math.ceil(n_encoders / (encoder_gpus or n_gpus))
    # On a shared GPU the encoders' part is less than a Gemma actor's, or one more of these would take their place.
    for_encoders = min(_SHARED_GPU_FOR_ENCODERS, 1 / (gemma_per_gpu + 2)) if shared else 0
    gemma_share = (1 - for_encoders) / gemma_per_gpu
    encoder_share = (for_encoders or 1) / encoders_per_gpu
    gemma_bytes = gemma_per_gpu * (needs.model + _WORKING_BYTES)
    encoder_bytes = encoders_per_gpu * max(sum(needs.sae_by_layer[layer] for layer in block) for block in blocks)
    smallest = min(gpu.memory for gpu in gpus)
    fullest = gemma_bytes + encoder_bytes if shared else max(gemma_bytes, encoder_bytes)
    if fullest > smallest:
        raise LayerscopeError(
            f"The weights do not fit: the fullest GPU would hold {_gib(fullest)} of its {_gib(smallest)}.\n"
            "Use --dtype bfloat16, --sae-dtype bfloat16, fewer --layers or --gemma-actors, or larger GPUs."
        )
    memory_lines = (
        f"Gemma: {gemma_actors} x {gemma_share:.2f} GPU, {_gib(gemma_bytes)} a GPU",
        f"encoders: {n_encoders} x {encoder_share:.2f} GPU, {_gib(encoder_bytes)} a GPU",
        f"fullest GPU: {_gib(fullest)} of {_gib(smallest)}",
    )
    return Placement(
        "cuda",
        _kinds([gpu.name for gpu in gpus]),
        gemma_actors,
        Share(0, _floor(gemma_share)),
        blocks,
        per_block,
        Share(0, _floor(encoder_share)),
        memory_lines,
    )


def _kinds(names: Sequence[str]) -> str:
    """One name, or all kinds there are: on mixed hardware the same question may get other last digits."""
    return " and ".join(sorted(set(names)))


def _floor(share: float) -> float:
    """Ray counts in units of 0.0001; rounding up would let the last actor wait for ever."""
    return math.floor(share * 10_000) / 10_000


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
