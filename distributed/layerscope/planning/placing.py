"""From the machines there are to who works where: every actor's node and its share of CPUs and GPUs.

Pure: it sees numbers, not Ray. The shares are Ray's book-keeping; memory is checked here, because Ray does not.
"""

from collections.abc import Sequence
from contextlib import suppress

from layerscope.errors import LayerscopeError
from layerscope.planning.needs import Needs
from layerscope.planning.node import Node
from layerscope.planning.on_cpus import place_on_cpus
from layerscope.planning.on_gpus import place_on_gpus
from layerscope.planning.placement import Placement, kinds, split
from layerscope.planning.settings import Crew

_BEST_NUMBERS_OF_BLOCKS = (6, 4, 2)


def place(crew: Crew, nodes: Sequence[Node], needs: Needs) -> Placement:
    """Decides who works where.

    Args:
        nodes: with room for actors, one at least.

    Raises:
        LayerscopeError: the weights do not fit the memory there is, or there are too few GPUs.
    """
    layers = sorted(needs.sae_by_layer)
    if crew.device == "cpu":
        return place_on_cpus(crew, nodes, needs, split(layers, crew.layer_blocks or 1))
    nodes = of_type(crew, nodes)
    *more, fewest = _numbers_of_blocks(crew, nodes)
    for number in more:
        with suppress(LayerscopeError):  # every encoder takes memory of its own
            return place_on_gpus(crew, nodes, needs, split(layers, number))
    return place_on_gpus(crew, nodes, needs, split(layers, fewest))


def _numbers_of_blocks(crew: Crew, nodes: Sequence[Node]) -> list[int]:
    """Into how many layer blocks to cut, the best first.

    An encoder on a GPU is bound by the CPU on which it formats JSON, a millisecond a question for all layers; one alone
    would keep a fast GPU waiting. Each makes the job begin a second later, because a GPU lets processes in one by one.
    """
    if crew.layer_blocks is not None:
        return [crew.layer_blocks]
    return [number for number in _BEST_NUMBERS_OF_BLOCKS if all(node.cpus >= 2 * number for node in nodes)] + [1]


def of_type(crew: Crew, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with GPUs, of one type if it is named.

    Raises:
        LayerscopeError: there is none of that type.
    """
    if not (chosen := suited(crew, nodes)):
        names = ", ".join(kinds([node for node in nodes if node.gpus], "cuda"))
        raise LayerscopeError(f"No node has GPUs of --gpu-type {crew.gpu_type}. There are: {names}.")
    return chosen


def suited(crew: Crew, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that have what a crew works on: on GPUs those with GPUs, of its type if it names one."""
    if crew.device == "cpu":
        return list(nodes)
    wanted = crew.gpu_type.casefold()
    return [
        node
        for node in nodes
        if node.gpus
        and (node.accelerator.casefold() == wanted or all(wanted in gpu.name.casefold() for gpu in node.gpus))
    ]
