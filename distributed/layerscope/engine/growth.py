"""More actors for nodes that join while a run is on: which seats, and where. Pure: it sees numbers, not Ray.

What is there stays where it is: only room that nobody has is given out. To place everything anew and to compare the
numbers leaves new nodes empty, because a placement for more GPUs puts its actors elsewhere.
"""

import math
from collections.abc import Sequence

from layerscope.engine.member import Member
from layerscope.formatting import count_of
from layerscope.planning.node import Node
from layerscope.planning.placement import Placement, Seat, Share
from layerscope.planning.settings import Crew

_ROUNDING = 0.01  # shares of a GPU are rounded down, so what they leave of it is a little too much


def more_seats(
    asked: Crew, placement: Placement, wanted: Placement, members: Sequence[Member], nodes: Sequence[Node]
) -> list[Seat]:
    """Seats for the room that is there.

    Args:
        placement: that the run is on, whose kinds of GPU or processor and whose layer blocks stay.
        wanted: of a run that began on these nodes: how many encoders it would take.
        members: who is there already; whoever waits for room takes it first.
        nodes: all that can take work.
    """
    alike = [node for node in nodes if node.kinds(placement.device) <= set(placement.kinds)]
    here = {node.identity for node in nodes}
    places = [node for node in alike for _ in range(_free_places(node, placement, members))]
    waiting = [member for member in members if (_node_id(member) or "nowhere") not in here]
    shares = [member.seat.share for member in waiting]
    taken = len(shares) if placement.device == "cpu" else math.ceil(sum(s.num_gpus for s in shares) - _ROUNDING)
    places = places[taken:]
    seats = []
    blocks = range(len(placement.blocks))
    sets = sum(member.seat.block == 0 for member in members)
    while places and placement.device == "cuda" and sets < wanted.encoders_per_block:
        share = Share(0, math.floor(10_000 / len(blocks)) / 10_000)
        seats += [Seat(block, places[0], share) for block in blocks]
        places, sets = places[1:], sets + 1
    if asked.gemma_actors is None and asked.gemma_gpus is None:  # else all that were asked for have their seats
        share = Share(0, 1) if placement.device == "cuda" else placement.gemma
        seats += [Seat(None, node, share) for node in places]
    return seats


def counted(seats: Sequence[Seat]) -> str:
    """`: 7 Gemma actors and 3 encoders more`; empty of none."""
    gemma = sum(seat.block is None for seat in seats)
    counts = {"Gemma actor": gemma, "encoder": len(seats) - gemma}
    told = " and ".join(count_of(count, noun) for noun, count in counts.items() if count)
    return f": {told} more" if told else ""


def seated_first(placement: Placement) -> list[Seat]:
    """Those that wait for a node come last: Ray would give them the room of an actor that is started after them."""
    return sorted(placement.seats, key=lambda seat: seat.node is None)


def _free_places(node: Node, placement: Placement, members: Sequence[Member]) -> int:
    """Whole GPUs that nobody has; without GPUs, one if no Gemma actor is there yet and one has room."""
    seats = [member.seat for member in members if _node_id(member) == node.identity]
    if placement.device == "cuda":
        return math.floor(len(node.gpus) - sum(seat.share.num_gpus for seat in seats) + _ROUNDING)
    return int(not any(seat.block is None for seat in seats) and node.cpus >= placement.gemma.num_cpus)


def _node_id(member: Member) -> str:
    """Where it is, or is to be."""
    return member.node_id or (member.seat.node.identity if member.seat.node else "")
