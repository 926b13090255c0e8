"""The run: batches to Gemma actors, activations to encoders, records to the file, in the order of the plan.

The one place where a death is answered for its batch. The driver owns every object reference and touches no tensor; a
batch whose actor or node dies is run again, whole, on any healthy actor.
"""

import gc
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple

import ray
from ray.exceptions import ObjectLostError

from layerscope.engine import cluster
from layerscope.engine.answers import Encoded, Scores
from layerscope.engine.crew import CALLS_PER_GEMMA_ACTOR, MACHINE_FAULTS, Crew, Member, Reference
from layerscope.engine.logs import Span
from layerscope.engine.timeline import Timeline
from layerscope.errors import LayerscopeError, first_line
from layerscope.planning.job import Job
from layerscope.records.lines import ErrorLine, Frame, LayerBlock, Outcome, join_record, settle

MAX_ATTEMPTS = 5  # of one batch
_CALLS_PER_ENCODER = 4  # few, so that a batch that is run again does not wait behind all the others
_BATCHES_PER_GEMMA_ACTOR = 4  # begun and not written: a slow batch holds the others up no sooner
_STORE_SHARE = 0.3  # of the object store for what is begun and not written; the rest is for copies and for others
_WAIT_SECONDS = 0.5
_TEND_SECONDS = 2.0
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """What an awaited reference stands for."""

    member: Member
    handle: Any
    batch: int
    block: int | None
    """None for a forward pass."""
    number: int
    """Calls are numbered as they are made; an actor works on them in this order."""


@dataclass
class Scored:
    """A batch between its forward pass and the file."""

    scores: Scores
    activations: list[Reference | None]
    """By block; dropped as soon as they are encoded."""
    blocks: list[LayerBlock | None]
    """By block; mapped from the object store, not copied."""
    complete_since: float = 0.0

    @property
    def complete(self) -> bool:
        return all(block is not None for block in self.blocks)


class Line(NamedTuple):
    """One line of the file, and what the summary counts of it."""

    pieces: list[bytes | memoryview]
    frame: Frame | None
    """None for an error line."""
    active_features: int = 0
    cells: int = 0


class BatchLines(NamedTuple):
    """The lines of a batch, in the order of the plan."""

    batch: int
    lines: list[Line]
    halved: bool
    tokens: int


class Driver:
    """Runs batches of a job on a Ray that is there; `results` hands out their lines in the order of the plan.

    Args:
        batches: which, ascending.
        tell: is told what a person should know meanwhile.
        timeline: of the run; none by default.
        crew: the actors, if not the job's own.
    """

    def __init__(
        self,
        job: Job,
        batches: Sequence[int],
        tell: Callable[[str], None],
        timeline: Timeline | None = None,
        crew: Crew | None = None,
    ) -> None:
        self._job, self._tell, self._timeline = job, tell, timeline or Timeline("")
        self._crew = crew or Crew(job, tell)
        self._turn = deque(batches)  # what is still to be handed out
        self._todo = sorted(batches)  # a heap of what is still to be given to a Gemma actor
        self._budget = _Budget(job)
        self._pending: dict[Reference, Call] = {}
        self._activations: dict[int, list[Reference | None]] = {}  # by block, of batches at a Gemma actor
        self._scored: dict[int, Scored] = {}
        self._to_encode: list[tuple[int, int]] = []  # a heap of batch and block: the first in line first
        self._failures: Counter[int] = Counter()
        self._call_numbers = count()

    def results(self, stopped: Callable[[], bool]) -> Iterator[BatchLines]:
        """The lines of every batch in its turn, until all are out or `stopped` says so.

        Raises:
            LayerscopeError: a fault that a retry does not mend.
        """
        gc.freeze()  # what is here stays: to look through it again and again took an eighth of this thread's time
        try:
            heard = tended = time.monotonic()
            while self._turn and not stopped():
                if time.monotonic() - tended > _TEND_SECONDS:
                    tended = time.monotonic()
                    self._crew.tend()
                    self._measure()
                self._dispatch()
                if answered := self._answered():
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENCE_SECONDS:
                    heard = time.monotonic()
                    self._tell(f"Nothing came back for {_SILENCE_SECONDS:.0f} s: {self._crew.describe()}")
                for reference in answered:
                    self._collect(reference)
                while self._turn and (scored := self._scored.get(self._turn[0])) and scored.complete:
                    lines, begun = self._hand_out(self._turn[0], scored), time.time()
                    yield lines
                    self._count_written(lines, Span(begun, time.time()))
        finally:
            gc.unfreeze()
            self._crew.dismiss()

    def _hand_out(self, batch: int, scored: Scored) -> BatchLines:
        del self._scored[batch]
        self._turn.popleft()
        self._budget.free(batch)
        self._crew.metrics.batch_seconds.observe(time.monotonic() - scored.complete_since, {"stage": "turn"})
        return _batch_lines(batch, scored)

    def _dispatch(self) -> None:
        """Gives out what can be worked on: activations first, because they fill the object store."""
        waiting = []
        while self._to_encode:
            batch, block = heappop(self._to_encode)
            member = self._crew.encoder_with_room(block, _CALLS_PER_ENCODER)
            if member is None:
                waiting.append((batch, block))
                continue
            activations = self._scored[batch].activations[block]
            encoding = member.handle.encode.remote(batch, activations, self._job.numerics.top_k)
            self._await(member, batch, block, encoding)
        self._to_encode = waiting  # in order, so a heap
        while self._may_begin() and (member := self._crew.gemma_with_room(CALLS_PER_GEMMA_ACTOR)):
            batch = heappop(self._todo)
            self._budget.take(batch)
            questions = [self._job.selection[int(example_id)] for example_id in self._job.plan.batch(batch)]
            returns = 1 + len(self._crew.placement.blocks)
            outcomes, *activations = member.handle.score.options(num_returns=returns).remote(batch, questions)
            self._activations[batch] = activations
            self._await(member, batch, None, outcomes)

    def _may_begin(self) -> bool:
        """What is begun and not handed out is bounded in batches and bytes; the batch whose turn it is always may."""
        if not self._todo:
            return False
        begun = len(self._turn) - len(self._todo)
        window = _BATCHES_PER_GEMMA_ACTOR * max(1, len(self._crew.gemma)) + 4
        return self._todo[0] == self._turn[0] or (begun < window and self._budget.has_room(self._todo[0]))

    def _await(self, member: Member, batch: int, block: int | None, reference: Reference) -> None:
        self._pending[reference] = Call(member, member.handle, batch, block, next(self._call_numbers))
        member.calls += 1

    def _answered(self) -> list[Reference]:
        """Waits a moment for an answer, and takes all that are there."""
        references = [*self._crew.starting, *self._pending]
        if not references:
            time.sleep(_WAIT_SECONDS)  # every actor is left out; the crew will say so
            return []
        # Records are fetched to this node while others are waited for; activations are not waited for, and stay.
        answered, _ = ray.wait(references, num_returns=len(references), timeout=0)
        if not answered:
            answered, _ = ray.wait(references, num_returns=1, timeout=_WAIT_SECONDS)
        return list(answered)

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
        if present:
            member.calls -= 1
        try:
            answer: Scores | Encoded = ray.get(reference)
        except MACHINE_FAULTS as fault:
            if present:
                self._blame(call, fault)
            self._send_back(call.batch, fault)
            return
        except LayerscopeError as error:
            raise getattr(error, "cause", error) from None  # Ray's wrapper adds the actor's traceback to the message
        member.deaths = 0
        self._draw("score" if call.block is None else "encode", member, answer.span, call.batch)
        if isinstance(answer, Encoded):
            scored = self._scored[call.batch]
            scored.blocks[call.block or 0], scored.activations[call.block or 0] = answer.block, None
            if scored.complete:
                scored.complete_since = time.monotonic()
                self._budget.learn(call.batch, [block for block in scored.blocks if block is not None])
        else:
            self._take_scores(call.batch, answer)

    def _take_scores(self, batch: int, scores: Scores) -> None:
        activations = self._activations.pop(batch)
        nothing_to_encode = all(isinstance(outcome, ErrorLine) for outcome in scores.outcomes)
        blocks: list[LayerBlock | None] = [] if nothing_to_encode else [None] * len(activations)
        self._scored[batch] = Scored(scores, activations, blocks, time.monotonic())
        for block in range(len(blocks)):
            heappush(self._to_encode, (batch, block))

    def _blame(self, call: Call, fault: Exception) -> None:
        """Counts a fault against the batch that was at work: of the calls to a dead actor the oldest; others waited."""
        batch = call.batch
        if not isinstance(fault, ObjectLostError):
            calls = [call, *(other for other in self._pending.values() if other.handle is call.handle)]
            batch = min(calls, key=lambda other: other.number).batch
            self._crew.lost(call.member)
        self._failures[batch] += 1

    def _send_back(self, batch: int, fault: Exception) -> None:
        """Forgets what there is of a batch and puts it in line again."""
        if self._failures[batch] >= MAX_ATTEMPTS:
            ids = self._job.plan.batch(batch)
            raise LayerscopeError(
                f"Batch {batch} (questions {_some(ids)}) failed {MAX_ATTEMPTS} times: {first_line(fault)}\n"
                "Everything before it is in the file. Smaller --batch-tokens need less memory; run again to go on."
            )
        self._crew.metrics.retries.inc()
        for reference, call in list(self._pending.items()):
            if call.batch == batch:
                del self._pending[reference]
                if call.handle is call.member.handle:
                    call.member.calls -= 1
        self._activations.pop(batch, None)
        self._scored.pop(batch, None)
        self._budget.free(batch)
        self._to_encode = sorted((other, block) for other, block in self._to_encode if other != batch)
        heappush(self._todo, batch)

    def _count_written(self, written: BatchLines, span: Span) -> None:
        metrics = self._crew.metrics
        metrics.batch_seconds.observe(span.end - span.start, {"stage": "write"})
        self._timeline.add("write", socket.gethostname(), "driver", span, written.batch)
        for counter, amount in (
            (metrics.questions, len(written.lines)),
            (metrics.errors, sum(line.frame is None for line in written.lines)),
            (metrics.tokens, written.tokens),
            (metrics.bytes, sum(len(piece) for line in written.lines for piece in line.pieces)),
        ):
            if amount:  # Ray's counters refuse a zero
                counter.inc(amount)

    def _draw(self, stage: str, member: Member, span: Span, batch: int) -> None:
        self._crew.metrics.batch_seconds.observe(span.end - span.start, {"stage": stage})
        self._timeline.add(stage, member.node_name, member.name, span, batch)

    def _measure(self) -> None:
        metrics = self._crew.metrics
        metrics.queue.set(len(self._activations), {"stage": "score"})
        metrics.queue.set(sum(not scored.complete for scored in self._scored.values()), {"stage": "encode"})
        metrics.queue.set(sum(scored.complete for scored in self._scored.values()), {"stage": "turn"})
        metrics.in_flight.set(self._budget.taken)


class _Budget:
    """Bytes of what is begun and not written, so that the object store holds it without spilling to disk.

    Every finished record comes to lie in the store of the driver's node. What a batch will take is foretold from the
    largest question so far; before there is one, from the SAEs' average L0.
    """

    def __init__(self, job: Job) -> None:
        self._plan = job.plan
        width = 2 if job.numerics.dtype == "bfloat16" else 4
        self._activations = 2 * len(job.layers) * job.spec.d_model * width  # of a question
        self._record = job.estimated_bytes() / max(1, job.n_questions)
        self._taken: dict[int, float] = {}
        self._limit = _STORE_SHARE * cluster.object_store_bytes()
        self.taken = 0.0

    def has_room(self, batch: int) -> bool:
        return self.taken + self._size(batch) <= self._limit

    def take(self, batch: int) -> None:
        self._taken[batch] = self._size(batch)
        self.taken += self._taken[batch]

    def free(self, batch: int) -> None:
        self.taken -= self._taken.pop(batch, 0.0)

    def learn(self, batch: int, blocks: Sequence[LayerBlock]) -> None:
        """Notes what a batch took in fact."""
        size = float(sum(block.json.nbytes for block in blocks))
        self._record = max(self._record, size / len(self._plan.batch(batch)))
        self.free(batch)
        self._taken[batch] = size
        self.taken += size

    def _size(self, batch: int) -> float:
        return len(self._plan.batch(batch)) * (self._activations + self._record)


def _batch_lines(batch: int, scored: Scored) -> BatchLines:
    blocks = [block for block in scored.blocks if block is not None]
    lines = [_line(outcome, blocks) for outcome in scored.scores.outcomes]
    halved = scored.scores.halved or any(block.halved for block in blocks)
    return BatchLines(batch, lines, halved, scored.scores.tokens)


def _line(outcome: Outcome, blocks: list[LayerBlock]) -> Line:
    outcome = settle(outcome, blocks)
    if isinstance(outcome, ErrorLine):
        return Line([outcome.line], None)
    counts = [block.active_counts[:, list(outcome.rows)] for block in blocks]
    cells = sum(count.size for count in counts)
    return Line(join_record(outcome, blocks), outcome, sum(int(count.sum()) for count in counts), cells)


def _some(ids: Any) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
