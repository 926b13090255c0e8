"""The crew of a run: its places, the actors that fill them, and how it changes as actors die and nodes come and go.

The driver gives batches to whoever is ready and knows what a death means for them; all about actors' lives is here.
Knows no Ray: `interface.py` is all it sees of it.
"""

from collections.abc import Callable
from dataclasses import replace

from layerscope.engine.batches.answers import Arrival
from layerscope.engine.batches.loading import to_load
from layerscope.engine.growth import counted, more_seats, seated_first
from layerscope.engine.interface import Engine, Handle, MachineFault, NoRoom, Reference
from layerscope.engine.member import Member, least_loaded
from layerscope.errors import LayerscopeError, first_line
from layerscope.formatting import count_of, ranges
from layerscope.planning.job import Job
from layerscope.planning.node import Node
from layerscope.planning.placement import Placement, Seat
from layerscope.planning.placing import place, suited
from layerscope.records.manifest.fingerprints import Fingerprint, Fingerprints

CALLS_PER_GEMMA_ACTOR = 3  # one at work and two made ready: with one an H100 waited a tenth of its time
MAX_DEATHS = 5  # of one actor while it starts
_REBUILD_SECONDS = 15.0  # without a way on, once nodes have come or gone
_OWN_PATIENCE = 300.0  # for a process on this machine, in a Ray of our own, which has room for all
_STEP_SECONDS = 10.0  # that count as silence at most, from one look to the next: this process may have been stopped
_LOADING_SECONDS = 4 * 3600.0  # after which nobody is loading any more; weights may come over a slow line
_TELL_SECONDS = 60.0


class Crew:
    """The Gemma actors and encoders of a job.

    Args:
        tell: is told what a person should know.
        fingerprints: of whoever computed what is in the file, and from now on of these actors.
    """

    def __init__(
        self, job: Job, engine: Engine, tell: Callable[[str], None], fingerprints: Fingerprints | None = None
    ) -> None:
        self.engine = engine
        self._fingerprints = fingerprints or Fingerprints()
        self._job, self._tell = job, tell
        self.placement = job.placement
        self.gemma: list[Member] = []
        self.encoders: list[Member] = []
        self.starting: dict[Reference, tuple[Member, Handle]] = {}
        """What is awaited of actors that are not ready yet, and the actor that was asked."""
        self._there = self._built_on = engine.node_ids()
        self._known = {seat.node.identity: seat.node.name for seat in job.placement.seats if seat.node}
        self._said = set[str]()
        self._tended = engine.now()
        self._told = float("-inf")
        self._stuck = 0.0  # seconds for which there has been no way on
        for seat in seated_first(job.placement):
            self._add(seat)

    @property
    def members(self) -> list[Member]:
        return [*self.gemma, *self.encoders]

    def gemma_with_room(self, limit: int) -> Member | None:
        """The Gemma actor that has the least to do, if that is less than `limit` calls."""
        return least_loaded(self.gemma, limit)

    def encoder_with_room(self, block: int, limit: int) -> Member | None:
        """The encoder of a block that has the least to do, if that is less than `limit` calls."""
        return least_loaded([member for member in self.encoders if member.seat.block == block], limit)

    def packer_with_room(self, limit: int) -> Member | None:
        """The encoder that has the least to do, if that is less than `limit` calls."""
        return least_loaded(self.encoders, limit)

    def take(self, reference: Reference) -> None:
        """Takes what a starting actor answered: first that it is there, then that it has loaded.

        Raises:
            LayerscopeError: it cannot load, or it died again and again.
        """
        member, handle = self.starting.pop(reference)
        if handle is not member.handle:
            return  # it was replaced meanwhile
        try:
            answer = self.engine.fetch(reference)
        except MachineFault as fault:
            if member.deaths + 1 >= MAX_DEATHS:
                raise LayerscopeError(
                    f"An actor ({member.name}) died {MAX_DEATHS} times while it was starting: {first_line(fault)}\n"
                    "Most often the memory is too small: take fewer actors, --dtype bfloat16 or fewer layers."
                ) from fault
            self.lost(member)
            return
        except LayerscopeError as error:
            raise type(error)(f"{error}" + f"\n(on node {member.node_name})" * (len(self._there) > 1)) from None
        member.silent = 0.0
        if isinstance(answer, Arrival):
            self._welcome(member, answer)
        else:
            self._admit(member, answer)

    def lost(self, member: Member) -> None:
        """Replaces an actor that died."""
        member.deaths += 1
        self.engine.measure("actor_restarts", 1, role=member.role.split()[0])
        self._start(member)

    def tend(self) -> None:
        """Looks after the crew, every few seconds: nodes that leave, nodes that join, and whether there is a way on.

        Raises:
            NoRoom: no actor of a kind that is needed can start, and no node is on its way.
        """
        now = self.engine.now()
        step, self._tended = min(now - self._tended, _STEP_SECONDS), now
        self._there = self.engine.node_ids()
        for role, members in (("gemma", self.gemma), ("encoder", self.encoders)):
            self.engine.measure("actors_ready", sum(member.ready for member in members), role=role)
        for member in self.members:
            loading = member.node_id and not member.ready
            member.silent = member.silent + step if member.calls or loading else 0.0
            if loading and member.silent > _LOADING_SECONDS:
                raise LayerscopeError(
                    f"{member.name} on {member.node_name} has been loading for {member.silent / 3600:.0f} hours.\n"
                    "Look at that machine's disk and network, and run again to go on."
                )
        self._leave_draining_nodes()
        self._grow()
        self._check_for_a_way_on(step)

    def dismiss(self) -> None:
        """Ends every actor."""
        for member in self.members:
            self._end(member)

    def describe(self) -> str:
        """Who is ready, and what there is left."""
        gemma, encoders = (sum(member.ready for member in group) for group in (self.gemma, self.encoders))
        return (
            f"Ready are {gemma} of {count_of(len(self.gemma), 'Gemma actor')} and {encoders} of "
            f"{count_of(len(self.encoders), 'encoder')}. "
            f"The cluster has {self.engine.resources()}."
        )

    def _tell_once(self, text: str) -> None:
        """What holds for every actor of a node."""
        if text not in self._said:
            self._said.add(text)
            self._tell(text)

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
        node_id = seat.node.identity if seat.node and seat.node.identity in self._there else ""
        # The GPU computes one batch, the CPU prepares the next.
        at_once = CALLS_PER_GEMMA_ACTOR if seat.block is None and self.placement.device == "cuda" else 1
        member.handle = self.engine.start(seat, node_id, self.placement.accelerator, at_once)
        self._await(member, "begin")

    def _await(self, member: Member, method: str, *arguments: object) -> None:
        (reference,) = self.engine.submit(member.handle, method, arguments)
        self.starting[reference] = (member, member.handle)

    def _end(self, member: Member) -> None:
        """Ends an actor's process, if there is one: only then is a GPU's memory free again."""
        if member.handle is not None:
            self.engine.end(member.handle)
        member.clear()

    def _welcome(self, member: Member, arrival: Arrival) -> None:
        """An actor's process is there: it may load, if its numbers will be those of the others."""
        member.node_id, member.node_name = arrival.node_id, arrival.node.name
        job, placement = self._job, self.placement
        member.kind = " and ".join(sorted(arrival.node.kinds(placement.device)))
        if unlike := arrival.node.unlike(placement.device, placement.kinds, job.software):
            self._tell_once(f"{arrival.node.name} is left out: {unlike}")
            self._end(member)
            return
        self._await(member, "load", *to_load(job, placement, member.seat))

    def _admit(self, member: Member, fingerprint: Fingerprint) -> None:
        """An actor has loaded: it may compute if it gets the bits that those before it got.

        Raises:
            LayerscopeError: it does not, and there is no other of its kind.
        """
        if self._fingerprints.admit(member.kind, fingerprint):
            member.ready, member.deaths = True, 0
            return
        differences = self._fingerprints.differences(member.kind, fingerprint)
        told = f"{member.name} on {member.node_name} computes other last digits than what is in the file"
        self._end(member)
        if not any(other.handle for other in self.members if other.seat.block == member.seat.block):
            raise LayerscopeError(
                f"{told}: {differences}.\n"
                "One file's numbers must all be computed alike. Go on where it was begun and with its variables, or "
                "name another --output-file."
            )
        self._tell(f"{told}, and is left out: {differences}.")

    def _leave_draining_nodes(self) -> None:
        """Actors on a node that is about to leave end what they have and start anew elsewhere."""
        for identity in sorted(self._known.keys() - self._there - {""}):
            self._tell(f"{self._known.pop(identity)} left.")
        draining = self.engine.leaving()
        for member in self.members if draining else []:
            if member.node_id not in draining:
                continue
            member.leaving = True
            self._tell_once(f"{member.node_name} is about to leave the cluster: its actors get no new batch.")
            if member.calls == 0:
                member.seat = replace(member.seat, node=None)
                self._start(member)

    def _grow(self) -> None:
        """Adds actors for nodes that joined; a number of actors that was asked for is kept, and its rest takes them."""
        if "" in self._known or self._there <= self._known.keys():
            return  # a Ray of our own stays as it is
        nodes = suited(self._job.crew, self.engine.usable_nodes())
        joined = [node for node in nodes if node.identity not in self._known]
        taken = [node for node in nodes if node.identity in self._known]
        for node in joined:
            self._known[node.identity] = node.name
            unlike = node.unlike(self.placement.device, self.placement.kinds, self._job.software)
            try:
                wanted = self._place([*taken, node])
            except LayerscopeError as error:
                unlike = unlike or first_line(error)
            if unlike:
                self._tell(f"{node.name} joined and is left out: {unlike}")
                continue
            taken.append(node)
            seats = more_seats(self._job.crew, self.placement, wanted, self.members, taken)
            self._tell(f"{node.name} joined{counted(seats)}.")
            for seat in seats:
                self._add(seat)

    def _check_for_a_way_on(self, step: float) -> None:
        """Gives up, or places anew, when of some kind of actor none is ready or loading for long."""
        by_block = [[m for m in self.encoders if m.seat.block == b] for b in range(len(self.placement.blocks))]
        lacking = [group for group in (self.gemma, *by_block) if not any(member.node_id for member in group)]
        self._stuck = self._stuck + step if lacking else 0.0
        if not lacking:
            return
        if self._stuck > _REBUILD_SECONDS and self._there != self._built_on and self._rebuild():
            return
        patience = self._job.patience
        if self._stuck < (max(_OWN_PATIENCE, patience) if "" in self._known else patience):
            return
        wanted = ", ".join(group[0].role for group in lacking)
        share = lacking[0][0].seat.share
        asked = f"{share.num_cpus:g} CPU and {share.num_gpus:g} GPU" + (
            f" of type {self.placement.accelerator}" if self.placement.accelerator else ""
        )
        if not (launched := self.engine.launching()):
            raise NoRoom(
                f"For {self._stuck:.0f} s no actor of {wanted} could start: each asks for {asked}; "
                f"the cluster has {self.engine.resources()}, and adds no node.\n"
                "Free or add nodes, or ask for less, and run again to go on; --patience waits longer."
            )
        if self._tended - self._told > _TELL_SECONDS:
            self._told = self._tended
            self._tell(f"Waiting for {wanted}, which ask for {asked}; the cluster is adding {launched}.")

    def _rebuild(self) -> bool:
        """Places the whole crew anew on the nodes that are left, because what is left of it cannot go on."""
        nodes = self.engine.usable_nodes()
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
        self._known |= {node.identity: node.name for node in nodes}
        self._built_on = self._there
        self._stuck = 0.0
        for seat in seated_first(placement):
            self._add(seat)
        return True

    def _place(self, nodes: list[Node]) -> Placement:
        job = self._job
        # The layer blocks stay: batches are under way that are cut into them.
        return place(replace(job.crew, layer_blocks=len(self.placement.blocks)), nodes, job.needs)
