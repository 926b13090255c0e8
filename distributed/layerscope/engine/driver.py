"""The run: batches to Gemma actors, activations to encoders, records to the file, in the order of the plan.

The one place where a death is answered for its batch. The driver owns every reference and touches no tensor; a batch
whose actor or node dies is run again, whole, on any healthy actor. Knows no Ray: `interface.py` is all it sees of it.
"""

import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

from layerscope.engine.accounts import Accounts
from layerscope.engine.batches.answers import Encoded, Scores
from layerscope.engine.batches.lines import BatchLines, PackedLines, Scored, batch_lines, scored
from layerscope.engine.budget import Budget
from layerscope.engine.cluster.logs import Span
from layerscope.engine.crew import CALLS_PER_GEMMA_ACTOR, Crew
from layerscope.engine.interface import ActorLost, AnswerLost, Handle, MachineFault, Reference
from layerscope.engine.member import Member
from layerscope.engine.timeline import Timeline
from layerscope.errors import LayerscopeError, first_line
from layerscope.formatting import listed
from layerscope.planning.job import Job

PACK = -1
MAX_ATTEMPTS = 5  # of one batch
CALLS_PER_ENCODER = 4  # few, so that a batch that is run again does not wait behind all the others
BATCHES_PER_GEMMA_ACTOR = 4  # begun and not written: a slow batch holds the others up no sooner
BATCHES_MORE = 4  # begun and not written, however few Gemma actors there are
_WAIT_SECONDS = 0.5
_TEND_SECONDS = 2.0
_SILENCE_SECONDS = 60.0  # before a person is told; twice as long before the next time
_HUNG_SECONDS = 600.0  # without an answer of one at work; more where its longest call says so
_FIRST_HUNG_SECONDS = 1800.0  # the same before there was any answer
_HUNG_TIMES = 20  # the longest call so far


@dataclass(frozen=True)
class Call:
    """What an awaited reference stands for."""

    member: Member
    handle: Handle
    batch: int
    block: int | None
    """None for a forward pass, PACK for compressing."""
    number: int
    """Calls are numbered as they are made; an actor works on them in this order."""
    apart: Reference | None
    """To the block that it encodes, if that is a value of its own."""

    @property
    def stage(self) -> str:
        return {None: "score", PACK: "pack"}.get(self.block, "encode")


class Driver:
    """Runs batches of a job on a crew; `results` hands out their lines in the order of the plan.

    Args:
        batches: which, ascending.
        tell: is told what a person should know meanwhile.
        timeline: of the run; none by default.
        at_work: is told at every call of an actor; the first one is when work begins.
        begins_again: is told of how many questions, whose batch is computed once more.
    """

    def __init__(
        self,
        job: Job,
        batches: Sequence[int],
        crew: Crew,
        budget: Budget,
        tell: Callable[[str], None],
        timeline: Timeline | None = None,
        at_work: Callable[[], None] = lambda: None,
        begins_again: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._job, self._crew, self._budget, self._tell = job, crew, budget, tell
        self._engine, self._at_work = crew.engine, at_work
        self._accounts = Accounts(crew.engine, timeline or Timeline(""), begins_again)
        self._turn = deque(batches)  # what is still to be handed out
        self._todo = sorted(batches)  # a heap of what is still to be given to a Gemma actor
        self._pending: dict[Reference, Call] = {}
        self._values: dict[int, list[Reference | None]] = {}  # beside the scores, of batches at a Gemma actor
        self._scored: dict[int, Scored] = {}
        self._to_encode: list[tuple[int, int]] = []  # a heap of batch and block: the first in line first
        self._to_pack: list[int] = []  # a heap of batches
        self._packing = job.packing
        self._apart = () if job.packing is None else (True,)  # this process reads of records only how many there are
        self._calls_per_encoder = CALLS_PER_ENCODER * (1 if self._packing is None else 2)  # who compress beside
        self._failures: Counter[int] = Counter()
        self._call_numbers = count()
        self._longest: dict[bool, float] = {}  # call so far in seconds, of encoders or not
        self._heard = self._tended = self._engine.now()
        self._silence = _SILENCE_SECONDS

    def results(self, stopped: Callable[[], bool]) -> Generator[BatchLines]:
        """The lines of every batch in its turn, until all are out or `stopped` says so.

        Raises:
            LayerscopeError: a fault that a retry does not mend.
        """
        gc.freeze()  # what is here stays: to look through it again and again took an eighth of this thread's time
        try:
            while self._turn and not stopped():
                self._look_after()
                self._dispatch()
                for reference in self._answered():
                    self._collect(reference)
                while self._turn and (first := self._scored.get(self._turn[0])) and self._is_complete(first):
                    lines, begun = self._hand_out(self._turn[0], first), time.time()
                    yield lines
                    self._accounts.written(lines, Span(begun, time.time()))
        finally:
            gc.unfreeze()
            self._crew.dismiss()

    def _look_after(self) -> None:
        """Every few seconds: the crew, the metrics, and what a person should know when nothing comes back."""
        now = self._engine.now()
        if now - self._tended > _TEND_SECONDS:
            self._tended = now
            self._crew.tend()
            self._give_up_on_the_hung()
            self._measure()
        if now - self._heard > self._silence:
            self._tell(f"Nothing came back for {now - self._heard:.0f} s: {self._crew.describe()}")
            self._silence *= 2

    def _give_up_on_the_hung(self) -> None:
        """A kernel that never ends (or a process that was stopped) is a death like any other, but slower to be seen."""
        for member in self._crew.members:
            longest = self._longest.get(member.seat.block is not None)
            limit = max(_HUNG_SECONDS, _HUNG_TIMES * longest) if longest is not None else _FIRST_HUNG_SECONDS
            if not member.calls or member.silent <= limit:
                continue
            fault = ActorLost(f"{member.name} on {member.node_name} gave no answer for {member.silent:.0f} s")
            self._tell(f"{fault}: it is replaced.")
            at_work = [(call.number, ref) for ref, call in self._pending.items() if call.handle is member.handle]
            call = self._pending.pop(min(at_work)[1])
            member.answered()
            self._blame(call, fault)
            self._send_back(call.batch, fault)

    def _hand_out(self, batch: int, first: Scored) -> BatchLines:
        del self._scored[batch]
        self._turn.popleft()
        self._budget.free(batch)
        self._engine.measure("batch_seconds", self._engine.now() - first.complete_since, stage="turn")
        return first.packed or batch_lines(batch, first.scores, first.blocks)

    def _is_complete(self, of: Scored) -> bool:
        return of.encoded if self._packing is None else of.packed is not None

    def _dispatch(self) -> None:
        """Gives out what can be worked on: what fills the object store most comes first."""
        while self._to_pack and (packer := self._crew.packer_with_room(self._calls_per_encoder)):
            of = self._scored[batch := heappop(self._to_pack)]
            self._submit(packer, batch, PACK, "pack", (batch, self._packing, of.apart, *of.blocks))
        waiting = []
        while self._to_encode:
            batch, block = heappop(self._to_encode)
            member = self._crew.encoder_with_room(block, self._calls_per_encoder)
            if member is None:
                waiting.append((batch, block))
                continue
            arguments = batch, self._scored[batch].activations[block], self._job.numerics.top_k
            self._submit(member, batch, block, "encode", (*arguments, *self._apart), 1 + len(self._apart))
        self._to_encode = waiting  # in order, so a heap
        while self._may_begin() and (member := self._crew.gemma_with_room(CALLS_PER_GEMMA_ACTOR)):
            batch = heappop(self._todo)
            self._budget.take(batch)
            # A tuple, because Ray takes a list apart and each question by itself.
            questions = tuple(self._job.selection.read(self._job.plan.batch(batch)))
            returns = 1 + len(self._apart) + len(self._crew.placement.blocks)
            self._values[batch] = self._submit(member, batch, None, "score", (batch, questions, *self._apart), returns)

    def _may_begin(self) -> bool:
        """What is begun and not handed out is bounded in batches and bytes; the batch whose turn it is always may."""
        if not self._todo:
            return False
        begun = len(self._turn) - len(self._todo)
        window = BATCHES_PER_GEMMA_ACTOR * max(1, len(self._crew.gemma)) + BATCHES_MORE
        return self._todo[0] == self._turn[0] or (begun < window and self._budget.has_room(self._todo[0]))

    def _submit(
        self, member: Member, batch: int, block: int | None, method: str, arguments: Sequence[Any], returns: int = 1
    ) -> list[Reference | None]:
        """Calls an actor and awaits its first value; gives the others."""
        self._at_work()
        answer, *others = self._engine.submit(member.handle, method, arguments, returns)
        apart = others[0] if others and block is not None else None
        self._pending[answer] = Call(member, member.handle, batch, block, next(self._call_numbers), apart)
        member.calls += 1
        return others

    def _answered(self) -> list[Reference]:
        """Waits a moment for an answer, and takes all that are there."""
        answered = self._engine.wait([*self._crew.starting, *self._pending], _WAIT_SECONDS)
        if answered:
            self._heard, self._silence = self._engine.now(), _SILENCE_SECONDS
        return answered

    def _collect(self, reference: Reference) -> None:
        """Takes one answer; a fault of the machine sends its batch back, a known error ends the run."""
        if reference in self._crew.starting:
            self._crew.take(reference)
            return
        call = self._pending.pop(reference, None)
        if call is None:
            return  # its batch was given up a moment ago
        member = call.member
        present = call.handle is member.handle
        try:
            answer: Any = self._engine.fetch(reference)
        except MachineFault as fault:
            if present:
                member.answered()
                self._blame(call, fault)
            self._send_back(call.batch, fault)
            return
        if present:
            member.answered()
            member.deaths = 0
        if call.block is None:
            self._take_scores(call.batch, answer)
        elif call.block == PACK:
            self._take_lines(call.batch, answer)
        else:
            self._take_block(call.batch, call.block, answer, call.apart)
        encoder, span = call.block is not None, answer.span
        self._longest[encoder] = max(self._longest.get(encoder, 0.0), span.end - span.start)
        self._accounts.called(call.stage, member, call.batch, span)

    def _take_scores(self, batch: int, scores: Scores) -> None:
        of = self._scored[batch] = scored(scores, self._values.pop(batch), self._engine.now())
        if of.encoded:
            self._take_encoded(batch, of)
        for block in range(len(of.blocks)):
            heappush(self._to_encode, (batch, block))

    def _take_block(self, batch: int, block: int, encoded: Encoded, apart: Reference | None) -> None:
        of = self._scored[batch]
        of.blocks[block], of.activations[block] = apart if encoded.block is None else encoded.block, None
        of.nbytes += encoded.nbytes
        if of.encoded:
            self._budget.learn(batch, of.nbytes)
            self._take_encoded(batch, of)

    def _take_encoded(self, batch: int, of: Scored) -> None:
        of.complete_since = self._engine.now()
        self._to_pack = sorted([*self._to_pack, batch]) if self._packing else []

    def _take_lines(self, batch: int, packed: PackedLines) -> None:
        of = self._scored[batch]
        of.packed, of.blocks = packed.lines, []
        of.complete_since = self._engine.now()
        self._budget.learn(batch, packed.lines.nbytes)

    def _blame(self, call: Call, fault: MachineFault) -> None:
        """Counts a fault against the batch that was at work: of the calls to a dead actor the oldest; others waited."""
        batch = call.batch
        if not isinstance(fault, AnswerLost):
            calls = [call, *(other for other in self._pending.values() if other.handle is call.handle)]
            batch = min(calls, key=lambda other: other.number).batch
            self._crew.lost(call.member)
        self._failures[batch] += 1

    def _send_back(self, batch: int, fault: MachineFault) -> None:
        """Forgets what there is of a batch and puts it in line again."""
        if self._failures[batch] >= MAX_ATTEMPTS:
            ids = listed(map(str, self._job.plan.batch(batch)), 5)
            raise LayerscopeError(
                f"Batch {batch} (questions {ids}) failed {MAX_ATTEMPTS} times: {first_line(fault)}\n"
                "Everything before it is in the file. Smaller --batch-tokens need less memory; run again to go on."
            )
        self._accounts.begun_again(len(self._job.plan.batch(batch)))
        for reference, call in list(self._pending.items()):
            if call.batch == batch:
                del self._pending[reference]
                if call.handle is call.member.handle:
                    call.member.answered()
        self._values.pop(batch, None)
        self._scored.pop(batch, None)
        self._budget.free(batch)
        self._to_pack = sorted(other for other in self._to_pack if other != batch)
        self._to_encode = sorted((other, block) for other, block in self._to_encode if other != batch)
        heappush(self._todo, batch)

    def _measure(self) -> None:
        at_encoders = sum(not self._is_complete(of) for of in self._scored.values())
        self._engine.measure("queue_depth", len(self._values), stage="score")
        self._engine.measure("queue_depth", at_encoders, stage="encode")
        self._engine.measure("queue_depth", len(self._scored) - at_encoders, stage="turn")
        self._engine.measure("in_flight_bytes", self._budget.taken)
