"""Actors on GPUs, Gemma's and the encoders'."""

import math
from collections.abc import Sequence
from itertools import groupby

from layerscope.errors import LayerscopeError
from layerscope.planning.needs import Needs
from layerscope.planning.node import Gpu, Node
from layerscope.planning.placement import Placement, Seat, Share, actors_line, gib, kinds, layers_text, waiting_lines
from layerscope.planning.settings import Crew

_ENCODER_GPUS_PER_RELATIVE_COST = 1 / 3  # so that 26 layers at 16k, 0.375 of the model, share a GPU for eight Gemma's
_SHARED_GPU_FOR_ENCODERS = 0.25  # of a GPU that Gemma and encoders share


def place_on_gpus(crew: Crew, nodes: Sequence[Node], needs: Needs, blocks: tuple[tuple[int, ...], ...]) -> Placement:
    """Several GPUs: Gemma on GPUs of its own as far as they last, encoders on the others. One: both share it."""
    gpus = [(node, gpu) for node in nodes for gpu in node.gpus]
    gemma_gpus, encoder_gpus = _divide(crew, len(gpus), needs.encode_cost)
    gemma_actors = crew.gemma_actors or gemma_gpus
    per_block = crew.encoders_per_block or max(1, encoder_gpus)
    encoders = list(range(len(blocks))) * per_block
    there = min(gemma_gpus, len(gpus) - encoder_gpus)  # the others' nodes join later
    first_for_encoders = len(gpus) - encoder_gpus
    hosts_of_encoders = list(range(first_for_encoders, len(gpus))) if encoder_gpus else list(range(there))
    # Shares are of whole numbers of actors to a GPU: otherwise the last one would wait for ever for a place.
    gemma_per_gpu = math.ceil(gemma_actors / gemma_gpus)
    encoders_per_gpu = math.ceil(len(encoders) / len(hosts_of_encoders))
    # On a shared GPU the encoders' part is less than a Gemma actor's, or one more of these would take their place.
    for_encoders = 0 if encoder_gpus or not encoders else min(_SHARED_GPU_FOR_ENCODERS, 1 / (gemma_per_gpu + 2))
    gemma_share = Share(0, _floor((1 - for_encoders) / gemma_per_gpu))
    encoder_share = Share(0, _floor((for_encoders or 1) / max(1, encoders_per_gpu)))

    gemma_hosts = [index % gemma_gpus for index in range(gemma_actors)]
    encoder_hosts = [hosts_of_encoders[index % len(hosts_of_encoders)] for index in range(len(encoders))]
    of_blocks = [sum(needs.sae_by_layer[layer] + needs.rows_by_layer for layer in block) for block in blocks]
    largest_block = max(of_blocks, default=0)
    lines = []
    for index, (node, gpu) in enumerate(gpus):
        n_gemma = sum(host == index for host in gemma_hosts) if index < there else 0
        blocks_here = [block for block, host in zip(encoders, encoder_hosts, strict=True) if host == index]
        # Of the encoders any may come to lie here: Ray counts shares, and a replaced actor may change its GPU.
        needed = n_gemma * (needs.model + needs.gemma_work) + len(blocks_here) * (largest_block + needs.encoder_work)
        _check_room(node, gpu, needed, needs)
        gemma = f"{n_gemma} Gemma x {gemma_share.num_gpus:.2g} GPU" if n_gemma else ""
        layers = layers_text(blocks, sorted(set(blocks_here)))
        per_encoder = f"x {encoder_share.num_gpus:.2g} GPU"
        encoding = f"{len(blocks_here)} encoder(s) of layers {layers} {per_encoder}" if blocks_here else ""
        lines += actors_line(node, [gemma, encoding], needed, gpu.room)
    lines += waiting_lines(sum(host >= there for host in gemma_hosts))
    seats = [Seat(None, gpus[host][0] if host < there else None, gemma_share) for host in gemma_hosts]
    seats += [Seat(block, gpus[host][0], encoder_share) for block, host in zip(encoders, encoder_hosts, strict=True)]
    types = {node.accelerator for node in nodes}
    pinned = types.pop() if len(types) == 1 else ""
    return Placement("cuda", kinds(nodes, "cuda"), pinned, blocks, tuple(seats), _counted(lines))


def _check_room(node: Node, gpu: Gpu, needed: int, needs: Needs) -> None:
    """Whether a GPU has room for what would come to lie on it.

    Raises:
        LayerscopeError: it has not.
    """
    if needed <= gpu.room:
        return
    if needed <= gpu.memory:
        raise LayerscopeError(
            f"A GPU of {node.name} ({gpu.name}) is in use: {gib(gpu.room)} of its {gib(gpu.memory)} are free, and the "
            f"run would hold {gib(needed)}.\n"
            "End what holds it (nvidia-smi names it), hide the card with CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    raise LayerscopeError(
        f"The weights do not fit: a GPU of {node.name} ({gpu.name}) would hold {gib(needed)} of its "
        f"{gib(gpu.room)}.\n"
        "Use --dtype bfloat16, --sae-dtype bfloat16, smaller --batch-tokens, fewer --layers or --gemma-actors, larger "
        f"GPUs ({needs.card} a copy in bfloat16, {gib(needs.on_a_card)}), or --device cpu."
    )


def _divide(crew: Crew, n_gpus: int, encode_cost: float) -> tuple[int, int]:
    """How many GPUs Gemma gets, more than there are if it is to grow, and how many the encoders get for themselves."""
    relative = encode_cost * _ENCODER_GPUS_PER_RELATIVE_COST
    by_cost = math.ceil(n_gpus * relative / (1 + relative) - 0.05)
    encoders = min(n_gpus - 1, max(1, by_cost))
    if crew.encoder_gpus is not None:
        encoders = crew.encoder_gpus
    elif crew.gemma_gpus is not None:
        encoders = min(encoders, max(0, n_gpus - crew.gemma_gpus))
    elif crew.gemma_actors is not None and crew.gemma_actors <= n_gpus:
        encoders = min(encoders, n_gpus - crew.gemma_actors)
    if encoders >= n_gpus:
        raise LayerscopeError(
            f"--encoder-gpus {encoders} leaves no GPU for Gemma: there are {n_gpus}. Name fewer, or 0 to share them."
        )
    return crew.gemma_gpus or crew.gemma_actors or n_gpus - encoders, encoders


def _counted(lines: Sequence[str]) -> tuple[str, ...]:
    """Lines in which neighbours that say the same are one."""
    counts = [(line, len(list(same))) for line, same in groupby(lines)]
    return tuple(f"{line}, on each of {count} GPUs" if count > 1 else line for line, count in counts)


def _floor(share: float) -> float:
    """Ray counts in units of 0.0001; rounding up would let the last actor wait for ever."""
    return math.floor(share * 10_000) / 10_000
