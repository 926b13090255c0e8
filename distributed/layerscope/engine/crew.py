"""The crew of a run: its places, the actors that fill them, and how it changes as actors die and nodes come and go.

The driver gives batches to whoever is ready and knows what a death means for them; all about actors' lives is here.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.engine import cluster
from layerscope.engine.actors import WORKER_ENVIRONMENT, EncoderActor, GemmaActor
from layerscope.engine.answers import Arrival, TorchSettings
from layerscope.engine.metrics import Metrics
from layerscope.errors import LayerscopeError, first_line
from layerscope.formatting import ranges
from layerscope.planning.job import Job
from layerscope.planning.node import Node
from layerscope.planning.placement import Placement, Seat
from layerscope.planning.placing import place

Reference = ray.ObjectRef[Any]
# What a machine does to a call; anything else that a call raises is an answer.
MACHINE_FAULTS = (
    RayActorError,
    ObjectLostError,
    WorkerCrashedError,
    NodeDiedError,
    OutOfMemoryError,
    RaySystemError,
)
CALLS_PER_GEMMA_ACTOR = 2  # one at work and one waiting, so that the GPU never does
MAX_DEATHS = 5  # of one actor while it starts
_REBUILD_SECONDS = 15.0  # without a way on, once nodes have come or gone
_TELL_SECONDS = 60.0


@dataclass(eq=False)
class Member:
    """A place in the crew, and the actor that fills it now."""

    seat: Seat
    role: str
    """`gemma`, or `encoder` and its layers."""
    number: int
    handle: Any = None
    node_id: str = ""
    """Where its process is; empty until it is there."""
    node_name: str = ""
    ready: bool = False
    """It has loaded its weights."""
    leaving: bool = False
    """Its node is about to leave: it gets nothing new."""
    calls: int = 0
    """Given to it and not answered."""
    deaths: int = 0
    """In a row, without an answered call between them."""

    @property
    def name(self) -> str:
        return f"{self.role} #{self.number}"

    @property
    def available(self) -> bool:
        return self.ready and not self.leaving


class Crew:
    """The Gemma actors and encoders of a job.

    Args:
        tell: is told what a person should know.
        gemma_class, encoder_class: actor classes with the methods of the real ones; a simulation brings its own.
    """

    def __init__(
        self,
        job: Job,
        tell: Callable[[str], None],
        gemma_class: Any = GemmaActor,
        encoder_class: Any = EncoderActor,
    ) -> None:
        self._job, self._tell = job, tell
        self._gemma_class, self._encoder_class = gemma_class, encoder_class
        self.placement = job.placement
        self.gemma: list[Member] = []
        self.encoders: list[Member] = []
        self.starting: dict[Reference, tuple[Member, Any]] = {}
        """What is awaited of actors that are not ready yet, and the actor that was asked."""
        self.metrics = Metrics()
        self._known = cluster.alive_nodes()
        self._built_on = self._known
        self._told = 0.0
        self._stuck_since: float | None = None
        for seat in job.placement.seats:
            self._add(seat)

    def gemma_with_room(self, limit: int) -> Member | None:
        """The Gemma actor that has the least to do, if that is less than `limit` calls."""
        return _least_loaded([member for member in self.gemma if member.available], limit)

    def encoder_with_room(self, block: int, limit: int) -> Member | None:
        """The encoder of a block that has the least to do, if that is less than `limit` calls."""
        able = [member for member in self.encoders if member.seat.block == block and member.available]
        return _least_loaded(able, limit)

    def take(self, reference: Reference) -> None:
        """Takes what a starting actor answered: first that it is there, then that it has loaded.

        Raises:
            LayerscopeError: it cannot load, or it died again and again.
        """
        member, handle = self.starting.pop(reference)
        if handle is not member.handle:
            return  # it was replaced meanwhile
        try:
            answer = ray.get(reference)
        except MACHINE_FAULTS as fault:
            if member.deaths + 1 >= MAX_DEATHS:
                raise LayerscopeError(
                    f"An actor ({member.name}) died {MAX_DEATHS} times while it was starting: {first_line(fault)}\n"
                    "Most often the memory is too small: take fewer actors, --dtype bfloat16 or fewer layers."
                ) from fault
            self.lost(member)
            return
        except LayerscopeError as error:
            cause = getattr(error, "cause", error)  # Ray's wrapper adds the actor's traceback to the message
            raise type(cause)(f"{cause}\n(on node {member.node_name})" if self._spread else str(cause)) from None
        if isinstance(answer, Arrival):
            self._welcome(member, answer)
        else:
            member.ready, member.deaths = True, 0

    def lost(self, member: Member) -> None:
        """Replaces an actor that died."""
        member.deaths += 1
        self.metrics.restarts.inc(tags={"role": member.role.split()[0]})
        self._start(member)

    def tend(self) -> None:
        """Looks after the crew, every few seconds: nodes that leave, nodes that join, and whether there is a way on.

        Raises:
            LayerscopeError: no actor of a kind that is needed can start, and no node is on its way.
        """
        for role, members in (("gemma", self.gemma), ("encoder", self.encoders)):
            self.metrics.ready.set(sum(member.ready for member in members), {"role": role})
        self._leave_draining_nodes()
        if new := cluster.alive_nodes() - self._known:
            self._grow(new)
        self._check_for_a_way_on()

    def dismiss(self) -> None:
        """Ends every actor."""
        for member in [*self.gemma, *self.encoders]:
            self._end(member)

    def describe(self) -> str:
        """Who is ready, and what Ray has left."""
        gemma, encoders = (sum(member.ready for member in group) for group in (self.gemma, self.encoders))
        return (
            f"{gemma} of {len(self.gemma)} Gemma actors and {encoders} of {len(self.encoders)} encoders are ready. "
            f"The cluster has {cluster.resources()}."
        )

    @property
    def _spread(self) -> bool:
        return len(self._known) > 1

    def _add(self, seat: Seat) -> None:
        if seat.block is None:
            self.gemma.append(Member(seat, "gemma", len(self.gemma)))
            self._start(self.gemma[-1])
        else:
            layers = ranges(self.placement.blocks[seat.block])
            self.encoders.append(Member(seat, f"encoder {layers}", len(self.encoders)))
            self._start(self.encoders[-1])

    def _start(self, member: Member) -> None:
        """Fills a place with a new actor; the one that was there, if any, is gone or is sent away."""
        self._end(member)
        seat = member.seat
        actor_class = self._gemma_class if seat.block is None else self._encoder_class
        options: dict[str, Any] = {
            "num_cpus": seat.share.num_cpus,
            "num_gpus": seat.share.num_gpus,
            "max_restarts": 0,  # the crew starts another: one place decides
            "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
        }
        if seat.block is None and self.placement.device == "cuda":
            options["max_concurrency"] = CALLS_PER_GEMMA_ACTOR  # the GPU computes one batch, the CPU prepares the next
        if self.placement.accelerator:
            options["accelerator_type"] = self.placement.accelerator
        if seat.node is not None and seat.node.identity in self._known:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(seat.node.identity, soft=True)
        member.handle = actor_class.options(**options).remote()
        self.starting[member.handle.begin.remote()] = (member, member.handle)

    def _end(self, member: Member) -> None:
        """Ends an actor's process, if there is one: only then is a GPU's memory free again."""
        if member.handle is not None:
            ray.kill(member.handle)
        member.handle, member.node_id, member.node_name = None, "", ""
        member.ready, member.leaving, member.calls = False, False, 0

    def _welcome(self, member: Member, arrival: Arrival) -> None:
        """An actor's process is there: it may load, if its numbers will be those of the others."""
        member.node_id, member.node_name = arrival.node_id, arrival.node.name
        strange = arrival.node.kinds(self.placement.device) - set(self.placement.kinds)
        changed = [
            f"{name} {version}" for name, version in arrival.node.software if self._job.software[name] != version
        ]
        if unlike := [*sorted(strange), *changed]:
            self._tell(
                f"{arrival.node.name} is left out: it has {', '.join(unlike)}, which this run was not begun with, "
                "and its numbers may differ."
            )
            self._end(member)
            return
        job = self._job
        if member.seat.block is None:
            settings = TorchSettings(self.placement.device, job.numerics.dtype, job.numerics.threads)
            loading = member.handle.load.remote(job.model, job.spec, self.placement.blocks, settings)
        else:
            saes = [sae for sae in job.saes if sae.layer in self.placement.blocks[member.seat.block]]
            settings = TorchSettings(self.placement.device, job.numerics.sae_dtype, job.numerics.threads)
            loading = member.handle.load.remote(job.sae_repository, saes, job.spec.d_model, settings)
        self.starting[loading] = (member, member.handle)

    def _leave_draining_nodes(self) -> None:
        """Actors on a node that is about to leave end what they have and start anew elsewhere."""
        draining = cluster.draining_nodes()
        for member in [*self.gemma, *self.encoders] if draining else []:
            if member.node_id not in draining:
                continue
            if not member.leaving:
                member.leaving = True
                self._tell(f"{member.node_name} is about to leave the cluster: {member.name} gets no new batch.")
            if member.calls == 0:
                member.seat = replace(member.seat, node=None)
                self._start(member)

    def _grow(self, new: set[str]) -> None:
        """Adds actors for nodes that joined; a number of actors that was asked for is kept, and its rest takes them."""
        nodes = cluster.usable_nodes(wait=False)
        joined = [node for node in nodes if node.identity in new]
        if not joined:
            return  # not probed yet, or nothing to work with
        self._known |= {node.identity for node in joined}
        self._tell(f"{', '.join(node.name for node in joined)} joined the cluster.")
        try:
            placement = self._place(nodes)
        except LayerscopeError:
            return  # the new node is too small
        members = [*self.gemma, *self.encoders]
        for block in [None, *range(len(self.placement.blocks))]:
            there = sum(member.seat.block == block for member in members)
            seats = [seat for seat in placement.seats if seat.block == block]
            on_new = [seat for seat in seats if seat.node in joined]
            for seat in on_new[: max(0, len(seats) - there)]:
                self._add(seat)

    def _check_for_a_way_on(self) -> None:
        """Gives up, or places anew, when of some kind of actor none is ready or loading for long."""
        groups = [
            self.gemma,
            *([m for m in self.encoders if m.seat.block == b] for b in range(len(self.placement.blocks))),
        ]
        lacking = [group for group in groups if not any(member.node_id for member in group)]
        now = time.monotonic()
        in_a_ray_of_our_own = all(seat.node is not None and not seat.node.identity for seat in self.placement.seats)
        if not lacking or in_a_ray_of_our_own:  # which has room for all, however slow it is
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        stuck = now - self._stuck_since
        if stuck > _REBUILD_SECONDS and cluster.alive_nodes() != self._built_on and self._rebuild():
            return
        if stuck < self._job.patience:
            return
        wanted = ", ".join(group[0].role for group in lacking)
        share = lacking[0][0].seat.share
        asked = f"{share.num_cpus:g} CPU and {share.num_gpus:g} GPU" + (
            f" of type {self.placement.accelerator}" if self.placement.accelerator else ""
        )
        if not (launched := cluster.launching()):
            raise LayerscopeError(
                f"For {stuck:.0f} s no actor of {wanted} could start: each asks for {asked}; "
                f"the cluster has {cluster.resources()}, and adds no node.\n"
                "Free or add nodes, or ask for less, and run again to go on; --patience waits longer."
            )
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self._tell(f"Waiting for {wanted}, which ask for {asked}; the cluster is adding {launched}.")

    def _rebuild(self) -> bool:
        """Places the whole crew anew on the nodes that are left, because what is left of it cannot go on."""
        nodes = cluster.usable_nodes(wait=False)
        try:
            placement = self._place(nodes) if nodes else None
        except LayerscopeError:
            placement = None
        if placement is None or not set(placement.kinds) <= set(self.placement.kinds):
            return False
        self._tell("The nodes have changed; the actors are placed anew: " + "; ".join(placement.lines))
        self.dismiss()
        self.placement = placement
        self.gemma, self.encoders = [], []
        self._known |= {node.identity for node in nodes}
        self._built_on = cluster.alive_nodes()
        self._stuck_since = None
        for seat in placement.seats:
            self._add(seat)
        return True

    def _place(self, nodes: list[Node]) -> Placement:
        job = self._job
        # The layer blocks stay: batches are under way that are cut into them.
        return place(replace(job.crew, layer_blocks=len(self.placement.blocks)), nodes, job.needs)


def _least_loaded(members: Sequence[Member], limit: int) -> Member | None:
    member = min(members, key=lambda member: member.calls, default=None)
    return member if member is not None and member.calls < limit else None
