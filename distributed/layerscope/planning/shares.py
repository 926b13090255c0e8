"""Which part of the machines works for which writer: nodes of its own, or slices of one where there are fewer nodes.

Pure: it sees numbers, not Ray.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from layerscope.errors import LayerscopeError
from layerscope.files import user_path
from layerscope.planning.job import Job
from layerscope.planning.node import Node
from layerscope.planning.placement import Placement
from layerscope.planning.placing import of_type, place
from layerscope.planning.settings import Crew
from layerscope.records.reading.parts import part_paths


@dataclass(frozen=True)
class Share:
    """What works for one writer."""

    nodes: tuple[Node, ...]
    """Whole ones, or a slice of one."""
    writers_here: int
    """That have slices of its node, this one among them."""
    crew: Crew
    placement: Placement


def shares(job: Job, nodes: Sequence[Node]) -> list[Share]:
    """The shares of as many writers as can be at work at once; the other parts' turn comes behind these.

    Raises:
        LayerscopeError: not even one can.
    """
    return _as_many_as_fit(job, job.crew, of_type(job.crew, nodes), len(job.output.parts))


def shares_of(job: Job, node: Node, writers: int, gemma_actors: int | None) -> list[Share]:
    """The shares of so many writers at most on a node that joins a run.

    Args:
        gemma_actors: that may be asked for; None for as many as find room.

    Raises:
        LayerscopeError: not even one finds room there, or its numbers may be others.
    """
    return _as_many_as_fit(job, replace(job.crew, gemma_actors=gemma_actors), [node], writers)


def share_of(job: Job, crew: Crew, nodes: Sequence[Node], writers_here: int = 1) -> Share:
    """The share that some nodes are.

    Raises:
        LayerscopeError: the weights do not fit there, or its numbers may be others.
    """
    for node in nodes:
        if unlike := node.unlike(crew.device, job.placement.kinds, job.software):
            raise LayerscopeError(unlike)
    return Share(tuple(nodes), writers_here, crew, place(crew, nodes, job.needs))


def part_of(job: Job, number: int, share: Share) -> Job:
    """The job of a part, the first being 1, for a writer with a share."""
    output, count = job.output, len(job.output.parts)
    timeline = str(part_paths(user_path(output.timeline), count)[number - 1]) if output.timeline else ""
    return replace(
        job,
        shard=(number, count),
        plan=job.plan.part(number, count),
        # What the bytes may depend on is the same for all parts.
        placement=replace(share.placement, kinds=job.placement.kinds),
        crew=share.crew,
        output=replace(output, records=output.parts[number - 1], parts=(), timeline=timeline, overwrite=False),
    )


def _room(crew: Crew, node: Node) -> int:
    """How many writers' actors find room on a node."""
    return len(node.gpus) if crew.device == "cuda" else max(1, node.cores // crew.threads)


def _as_many_as_fit(job: Job, crew: Crew, nodes: Sequence[Node], writers: int) -> list[Share]:
    """The shares of so many writers, or of as many as find room."""
    at_most = min(writers, sum(_room(crew, node) for node in nodes), crew.gemma_actors or writers)
    for number in range(at_most, 1, -1):
        with suppress(LayerscopeError):  # every one has a model of its own, which takes memory
            return _divided(job, crew, nodes, number)
    return _divided(job, crew, nodes, 1)


def _divided(job: Job, crew: Crew, nodes: Sequence[Node], number: int) -> list[Share]:
    """So many shares, as equal as they can be."""
    crews = [_crew_of(crew, index, number) for index in range(number)]
    if number <= len(nodes):
        groups: list[list[Node]] = [[] for _ in range(number)]
        for node in sorted(nodes, key=lambda node: -_room(crew, node)):
            min(groups, key=lambda group: sum(_room(crew, each) for each in group)).append(node)
        return [share_of(job, own, group) for own, group in zip(crews, groups, strict=True)]
    slices = [1] * len(nodes)
    for _ in range(number - len(nodes)):
        fullest = max(range(len(nodes)), key=lambda index: _room(crew, nodes[index]) / slices[index])
        slices[fullest] += 1
    divided = [(part, count) for node, count in zip(nodes, slices, strict=True) for part in _slices(node, count)]
    return [share_of(job, own, [part], count) for own, (part, count) in zip(crews, divided, strict=True)]


def _slices(node: Node, count: int) -> list[Node]:
    """A node in so many parts: its GPUs and its memory divided among them."""
    ends = [len(node.gpus) * edge // count for edge in range(count + 1)]
    return [
        replace(node, gpus=node.gpus[first:last], cpus=max(1, node.cpus // count), memory=node.memory // count)
        for first, last in pairwise(ends)
    ]


def _crew_of(crew: Crew, index: int, number: int) -> Crew:
    """What is asked for in all, divided: the share of one of so many."""

    def own(asked: int | None) -> int | None:
        return None if asked is None else asked * (index + 1) // number - asked * index // number

    gemma_gpus = own(crew.gemma_gpus)
    return replace(
        crew,
        gemma_actors=own(crew.gemma_actors),
        gemma_gpus=gemma_gpus if gemma_gpus is None else max(1, gemma_gpus),
        encoder_gpus=own(crew.encoder_gpus),
    )
