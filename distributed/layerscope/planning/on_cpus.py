"""Actors on nodes without GPUs."""

import math
from collections.abc import Sequence

from layerscope.errors import LayerscopeError
from layerscope.planning.needs import Needs
from layerscope.planning.node import Node
from layerscope.planning.placement import Placement, Seat, Share, actors_line, gib, kinds, layers_text, waiting_lines
from layerscope.planning.settings import Crew


def place_on_cpus(crew: Crew, nodes: Sequence[Node], needs: Needs, blocks: tuple[tuple[int, ...], ...]) -> Placement:
    """A Gemma actor takes as many CPUs as it has threads, so that one too many waits for a node that joins later.

    Encoders work in short bursts and take none: they always find a place, and no batch waits for one.
    """
    share = Share(min(crew.threads, max(node.cpus for node in nodes)), 0)
    wanted, per_block = crew.gemma_actors or len(nodes), crew.encoders_per_block or 1
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
        if node.bfloat16:  # and what each encoder has for itself
            saes += sum(needs.screen * len(blocks[block]) for block, host in encoders if host == index)
        each = needs.model + needs.kept
        needed = n_gemma * each + saes
        if needed > node.memory:
            raise LayerscopeError(
                f"The weights do not fit: {n_gemma} Gemma actor(s) on {node.name} need {gib(each)} each and "
                f"the SAEs {gib(saes)}, of {gib(node.memory)} there.\n"
                f"Use --dtype bfloat16, fewer --layers or --gemma-actors, or a larger machine; {needs.card} a copy in "
                f"bfloat16 ({gib(needs.on_a_card)})."
            )
        gemma = f"{n_gemma} Gemma" if n_gemma else ""
        n_encoders = sum(host == index for _, host in encoders)
        encoding = f"{n_encoders} encoder(s) of layers {layers_text(blocks, blocks_here)}" if blocks_here else ""
        lines += actors_line(node, [gemma, encoding], needed, node.memory)
    lines += waiting_lines(hosts.count(None))
    seats = [Seat(None, None if host is None else nodes[host], share) for host in hosts]
    seats += [Seat(block, nodes[host], Share(0, 0)) for block, host in encoders]
    return Placement("cpu", kinds(nodes, "cpu"), "", blocks, tuple(seats), tuple(lines))
