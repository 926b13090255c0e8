"""From the machines there are to who works where: every actor's node and its share of CPUs and GPUs.

Pure: it sees numbers, not Ray. The shares are Ray's book-keeping; memory is checked here, because Ray does not.
"""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from layerscope.config import Config
from layerscope.errors import LayerscopeError
from layerscope.formatting import ranges

_ENCODER_GPUS_PER_RELATIVE_COST = 1 / 3  # so that 26 layers at 16k, 0.375 of the model, share a GPU for eight Gemma's
_WORKING_BYTES = 2 << 30  # activations, logits and buffers of one Gemma actor at the default batch size
_ENCODER_CONTEXT_BYTES = 512 << 20  # that CUDA takes for a process, whatever it does
_SHARED_GPU_FOR_ENCODERS = 0.25  # of a GPU that Gemma and encoders share
_TINY_D_MODEL = 256  # below this a matrix product is too small to be worth a second thread


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
    identity: str = ""
    """Ray's id of the node; empty for a machine on which no Ray runs yet."""
    accelerator: str = ""
    """Ray's word for the type of its GPUs, by which actors can be pinned to it; empty where Ray knows none."""
    software: tuple[tuple[str, str], ...] = ()
    """Names and versions of the packages whose versions change numbers."""

    def kinds(self, device: str) -> set[str]:
        """The kinds of GPU or processor that actors meet here."""
        return {gpu.name for gpu in self.gpus} if device == "cuda" else {self.processor or "CPU"}


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
    encode_cost: float = 0.375
    """Weights of all encoders over weights of the model: what a question's encoding costs beside its forward pass."""


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


def resolve_device(config: Config, nodes: Sequence[Node]) -> str:
    """`cuda` or `cpu`.

    Raises:
        LayerscopeError: a GPU is asked for and there is none.
    """
    there = any(node.gpus for node in nodes)
    if (config.device == "cuda" or config.gpu_type) and not there:
        raise LayerscopeError(
            "No node has a GPU (asked for by --device or --gpu-type). Leave the option out, or add one."
        )
    return "cuda" if there and config.device != "cpu" else "cpu"


def resolve_threads(config: Config, nodes: Sequence[Node], d_model: int) -> int:
    """Torch threads of each actor on a CPU: they change rounding, so they never depend on how many actors there are."""
    if isinstance(config.threads, int):
        return config.threads
    return 1 if d_model <= _TINY_D_MODEL else min(node.cpus for node in nodes)


def place(config: Config, nodes: Sequence[Node], needs: Needs, threads: int | None = None) -> Placement:
    """Decides who works where.

    Args:
        nodes: with room for actors, one at least.
        threads: of each actor on a CPU, if they are settled already.

    Raises:
        LayerscopeError: the weights do not fit the memory there is, or there are too few GPUs.
    """
    layers = sorted(needs.sae_by_layer)
    if resolve_device(config, nodes) == "cpu":
        blocks = split(layers, config.layer_blocks if isinstance(config.layer_blocks, int) else 1)
        return _place_on_cpus(config, nodes, needs, blocks, threads or resolve_threads(config, nodes, needs.d_model))
    nodes = _of_type(config.gpu_type, nodes)
    *more, fewest = _numbers_of_blocks(config, nodes)
    for number in more:
        with suppress(LayerscopeError):  # every encoder takes memory of its own
            return _place_on_gpus(config, nodes, needs, split(layers, number))
    return _place_on_gpus(config, nodes, needs, split(layers, fewest))


def _numbers_of_blocks(config: Config, nodes: Sequence[Node]) -> list[int]:
    """Into how many layer blocks to cut, the best first.

    An encoder on a GPU is bound by the CPU on which it formats JSON, a millisecond a question for all layers. Four
    together keep up with 4,000 questions/s; one alone would keep a fast GPU waiting.
    """
    if isinstance(config.layer_blocks, int):
        return [config.layer_blocks]
    return [number for number in (4, 2) if all(node.cpus >= 2 * number for node in nodes)] + [1]


def split(layers: Sequence[int], n_blocks: int) -> tuple[tuple[int, ...], ...]:
    """Contiguous blocks of nearly equal size, the larger ones first; no more of them than layers."""
    n_blocks = min(n_blocks, len(layers))
    size, larger = divmod(len(layers), n_blocks)
    blocks, start = [], 0
    for block in range(n_blocks):
        end = start + size + (block < larger)
        blocks.append(tuple(layers[start:end]))
        start = end
    return tuple(blocks)


def _place_on_cpus(
    config: Config, nodes: Sequence[Node], needs: Needs, blocks: tuple[tuple[int, ...], ...], threads: int
) -> Placement:
    """A Gemma actor takes as many CPUs as it has threads, so that one too many waits for a node that joins later.

    Encoders work in short bursts and take none: they always find a place, and no batch waits for one.
    """
    share = Share(min(threads, max(node.cpus for node in nodes)), 0)
    wanted = config.gemma_actors if isinstance(config.gemma_actors, int) else len(nodes)
    per_block = config.encoders_per_block if isinstance(config.encoders_per_block, int) else 1
    # A Ray that is still to be started on this machine is told of as many CPUs as its actors take.
    free = [node.cpus // share.num_cpus if node.identity else math.inf for node in nodes]
    hosts: list[int | None] = []
    for _ in range(wanted):
        roomiest = max(range(len(nodes)), key=lambda index: (free[index], -index))
        hosts.append(roomiest if free[roomiest] >= 1 else None)
        free[roomiest] -= 1
    encoders = [(block, index % len(nodes)) for index, block in enumerate(list(range(len(blocks))) * per_block)]
    lines = []
    for index, node in enumerate(nodes):
        n_gemma, blocks_here = hosts.count(index), sorted({block for block, host in encoders if host == index})
        saes = sum(needs.sae_by_layer[layer] for block in blocks_here for layer in blocks[block])  # mapped once a node
        needed = n_gemma * needs.model + saes
        if needed > node.memory:
            raise LayerscopeError(
                f"The weights do not fit: {n_gemma} Gemma actor(s) on {node.name} need {_gib(needs.model)} each and "
                f"the SAEs {_gib(saes)}, of {_gib(node.memory)} there.\n"
                "Use --dtype bfloat16, fewer --layers or --gemma-actors, or a larger machine."
            )
        gemma = f"{n_gemma} Gemma" if n_gemma else ""
        n_encoders = sum(host == index for _, host in encoders)
        encoding = f"{n_encoders} encoder(s) of layers {_layers(blocks, blocks_here)}" if blocks_here else ""
        lines += _line(node, [gemma, encoding], needed, node.memory)
    lines += _waiting(hosts.count(None))
    seats = [Seat(None, None if host is None else nodes[host], share) for host in hosts]
    seats += [Seat(block, nodes[host], Share(0, 0)) for block, host in encoders]
    return Placement("cpu", _kinds(nodes, "cpu"), "", blocks, tuple(seats), tuple(lines))


def _place_on_gpus(
    config: Config, nodes: Sequence[Node], needs: Needs, blocks: tuple[tuple[int, ...], ...]
) -> Placement:
    """Several GPUs: Gemma on GPUs of its own as far as they last, encoders on the others. One: both share it."""
    gpus = [(node, gpu) for node in nodes for gpu in node.gpus]
    gemma_gpus, encoder_gpus = _divide(config, len(gpus), needs.encode_cost)
    gemma_actors = config.gemma_actors if isinstance(config.gemma_actors, int) else gemma_gpus
    per_block = config.encoders_per_block if isinstance(config.encoders_per_block, int) else max(1, encoder_gpus)
    encoders = list(range(len(blocks))) * per_block
    there = min(gemma_gpus, len(gpus) - encoder_gpus)  # the others' nodes join later
    first_for_encoders = len(gpus) - encoder_gpus
    hosts_of_encoders = list(range(first_for_encoders, len(gpus))) if encoder_gpus else list(range(there))
    # Shares are of whole numbers of actors to a GPU: otherwise the last one would wait for ever for a place.
    gemma_per_gpu = math.ceil(gemma_actors / gemma_gpus)
    encoders_per_gpu = math.ceil(len(encoders) / len(hosts_of_encoders))
    # On a shared GPU the encoders' part is less than a Gemma actor's, or one more of these would take their place.
    for_encoders = 0 if encoder_gpus else min(_SHARED_GPU_FOR_ENCODERS, 1 / (gemma_per_gpu + 2))
    gemma_share = Share(0, _floor((1 - for_encoders) / gemma_per_gpu))
    encoder_share = Share(0, _floor((for_encoders or 1) / encoders_per_gpu))

    gemma_hosts = [index % gemma_gpus for index in range(gemma_actors)]
    encoder_hosts = [hosts_of_encoders[index % len(hosts_of_encoders)] for index in range(len(encoders))]
    largest_block = max(sum(needs.sae_by_layer[layer] for layer in block) for block in blocks)
    lines = []
    for index, (node, gpu) in enumerate(gpus):
        n_gemma = sum(host == index for host in gemma_hosts) if index < there else 0
        blocks_here = [block for block, host in zip(encoders, encoder_hosts, strict=True) if host == index]
        # Of the encoders any may come to lie here: Ray counts shares, and a replaced actor may change its GPU.
        needed = n_gemma * (needs.model + _WORKING_BYTES) + len(blocks_here) * (largest_block + _ENCODER_CONTEXT_BYTES)
        if needed > gpu.memory:
            raise LayerscopeError(
                f"The weights do not fit: a GPU of {node.name} ({gpu.name}) would hold {_gib(needed)} of its "
                f"{_gib(gpu.memory)}.\n"
                "Use --dtype bfloat16, --sae-dtype bfloat16, fewer --layers or --gemma-actors, or larger GPUs."
            )
        gemma = f"{n_gemma} Gemma x {gemma_share.num_gpus:.2g} GPU" if n_gemma else ""
        layers = _layers(blocks, sorted(set(blocks_here)))
        per_encoder = f"x {encoder_share.num_gpus:.2g} GPU"
        encoding = f"{len(blocks_here)} encoder(s) of layers {layers} {per_encoder}" if blocks_here else ""
        lines += _line(node, [gemma, encoding], needed, gpu.memory)
    lines += _waiting(sum(host >= there for host in gemma_hosts))
    seats = [Seat(None, gpus[host][0] if host < there else None, gemma_share) for host in gemma_hosts]
    seats += [Seat(block, gpus[host][0], encoder_share) for block, host in zip(encoders, encoder_hosts, strict=True)]
    types = {node.accelerator for node in nodes}
    pinned = types.pop() if len(types) == 1 else ""
    return Placement("cuda", _kinds(nodes, "cuda"), pinned, blocks, tuple(seats), _counted(lines))


def _divide(config: Config, n_gpus: int, encode_cost: float) -> tuple[int, int]:
    """How many GPUs Gemma gets, more than there are if it is to grow, and how many the encoders get for themselves."""
    actors = config.gemma_actors if isinstance(config.gemma_actors, int) else None
    gemma = config.gemma_gpus if isinstance(config.gemma_gpus, int) else None
    relative = encode_cost * _ENCODER_GPUS_PER_RELATIVE_COST
    by_cost = math.ceil(n_gpus * relative / (1 + relative) - 0.05)
    encoders = min(n_gpus - 1, max(1, by_cost))
    if isinstance(config.encoder_gpus, int):
        encoders = config.encoder_gpus
    elif gemma is not None:
        encoders = min(encoders, max(0, n_gpus - gemma))
    elif actors is not None and actors <= n_gpus:
        encoders = min(encoders, n_gpus - actors)
    if encoders >= n_gpus:
        raise LayerscopeError(
            f"--encoder-gpus {encoders} leaves no GPU for Gemma: there are {n_gpus}. Name fewer, or 0 to share them."
        )
    return gemma or actors or n_gpus - encoders, encoders


def _of_type(gpu_type: str, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with GPUs, of one type if it is named.

    Raises:
        LayerscopeError: there is none of that type.
    """
    with_gpus = [node for node in nodes if node.gpus]
    wanted = gpu_type.casefold()
    chosen = [
        node
        for node in with_gpus
        if node.accelerator.casefold() == wanted or all(wanted in gpu.name.casefold() for gpu in node.gpus)
    ]
    if not chosen:
        names = ", ".join(_kinds(with_gpus, "cuda"))
        raise LayerscopeError(f"No node has GPUs of --gpu-type {gpu_type}. There are: {names}.")
    return chosen


def _kinds(nodes: Sequence[Node], device: str) -> tuple[str, ...]:
    return tuple(sorted(set().union(*(node.kinds(device) for node in nodes))))


def _layers(blocks: Sequence[Sequence[int]], which: Sequence[int]) -> str:
    return " | ".join(ranges(blocks[block]) for block in which)


def _line(node: Node, tasks: Sequence[str], needed: int, memory: int) -> list[str]:
    """Who works here on how much memory, in a line; none where nobody does."""
    here = ", ".join(task for task in tasks if task)
    return [f"{node.name}: {here}; memory {_gib(needed)} of {_gib(memory)}"] if here else []


def _waiting(count: int) -> list[str]:
    return [f"{count} more Gemma: as nodes join"] if count else []


def _counted(lines: Sequence[str]) -> tuple[str, ...]:
    """Lines in which neighbours that say the same are one."""
    counts = [(line, len(list(same))) for line, same in groupby(lines)]
    return tuple(f"{line}, on each of {count} GPUs" if count > 1 else line for line, count in counts)


def gpu_types(nodes: Sequence[Node]) -> Counter[str]:
    """How many GPUs there are of each kind."""
    return Counter(gpu.name for node in nodes for gpu in node.gpus)


def _floor(share: float) -> float:
    """Ray counts in units of 0.0001; rounding up would let the last actor wait for ever."""
    return math.floor(share * 10_000) / 10_000


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
