"""The run: batches to Gemma actors, activations to encoders, records to the file, in the order of the plan.

The one place where death is handled. The driver owns every object reference and touches no tensor; a batch whose actor
or node dies is run again, whole, on any healthy actor.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, NamedTuple

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    WorkerCrashedError,
)

from layerscope.actors import Scores
from layerscope.crew import Crew, Member, Reference
from layerscope.errors import LayerscopeError
from layerscope.job import Job
from layerscope.records import ErrorLine, Frame, LayerBlock, Outcome, join_record, settle

# What a machine does to a call; anything else that a call raises is an answer.
MACHINE_FAULTS = (
    RayActorError,
    ObjectLostError,
    WorkerCrashedError,
    NodeDiedError,
    OutOfMemoryError,
    RaySystemError,
)
MAX_ATTEMPTS = 5  # of one batch, and of one actor to start
_CALLS_PER_GEMMA_ACTOR = 2  # one at work and one waiting, so that the GPU never does
_WAIT_SECONDS = 0.5
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """What an awaited reference stands for."""

    member: Member
    handle: Any
    batch: int | None
    """None while the actor loads."""


@dataclass
class Scored:
    """A batch between its forward pass and the file."""

    scores: Scores
    activations: list[Reference | None]
    """By block; dropped as soon as they are encoded."""
    blocks: list[LayerBlock | None]
    """By block; mapped from the object store, not copied."""

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


class Driver:
    """Runs batches of a job on a Ray that is there; `results` hands out their lines in the order of the plan.

    Args:
        batches: which, ascending.
        tell: is told what a person should know meanwhile.
        crew: the actors, if not the job's own.
    """

    def __init__(self, job: Job, batches: Sequence[int], tell: Callable[[str], None], crew: Crew | None = None) -> None:
        self._job, self._tell = job, tell
        self._turn = deque(batches)  # what is still to be handed out
        self._todo = sorted(batches)  # a heap of what is still to be given to a Gemma actor
        self._window = _CALLS_PER_GEMMA_ACTOR * job.placement.gemma_actors + 4
        self._pending: dict[Reference, Call] = {}
        self._activations: dict[int, list[Reference | None]] = {}  # by block, of batches at a Gemma actor
        self._scored: dict[int, Scored] = {}
        self._to_encode: list[tuple[int, int]] = []  # batch and block
        self._failures: Counter[int] = Counter()
        self._crew = crew or Crew(job)

    def results(self, stopped: Callable[[], bool]) -> Iterator[BatchLines]:
        """The lines of every batch in its turn, until all are out or `stopped` says so.

        Raises:
            LayerscopeError: a fault that a retry does not mend.
        """
        try:
            for member in [*self._crew.gemma, *self._crew.encoders]:
                self._await(member, None, self._crew.start(member))
            heard = time.monotonic()
            while self._turn and not stopped():
                self._dispatch()
                if answered := self._answered():
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENCE_SECONDS:
                    heard = time.monotonic()
                    self._tell(f"Nothing came back for {_SILENCE_SECONDS:.0f} s: {self._crew.describe()}")
                for reference in answered:
                    self._collect(reference)
                while self._turn and (scored := self._scored.get(self._turn[0])) and scored.complete:
                    del self._scored[self._turn[0]]
                    yield _batch_lines(self._turn.popleft(), scored)
        finally:
            for member in [*self._crew.gemma, *self._crew.encoders]:
                self._crew.dismiss(member)

    def _dispatch(self) -> None:
        """Gives out what can be worked on: activations first, because they fill the object store."""
        waiting = []
        for batch, block in self._to_encode:
            member = self._crew.encoder(block)
            if member is None:
                waiting.append((batch, block))
                continue
            activations = self._scored[batch].activations[block]
            self._await(member, batch, member.handle.encode.remote(activations, self._job.numerics.top_k))
        self._to_encode = waiting
        for member in self._crew.gemma:
            while member.ready and member.calls < _CALLS_PER_GEMMA_ACTOR and self._todo_in_window():
                batch = heappop(self._todo)
                questions = [self._job.selection[int(example_id)] for example_id in self._job.plan.batch(batch)]
                returns = 1 + len(self._job.placement.blocks)
                outcomes, *activations = member.handle.score.options(num_returns=returns).remote(questions)
                self._activations[batch] = activations
                self._await(member, batch, outcomes)

    def _todo_in_window(self) -> bool:
        """Batches that are begun and not handed out are bounded; one that was sent back is first in line."""
        return bool(self._todo) and len(self._turn) - len(self._todo) < self._window

    def _await(self, member: Member, batch: int | None, reference: Reference) -> None:
        self._pending[reference] = Call(member, member.handle, batch)
        member.calls += 1

    def _answered(self) -> list[Reference]:
        """Waits a moment for an answer, and takes all that are there."""
        references = list(self._pending)
        # Nothing is fetched: large answers stay where they are until they are written.
        answered, _ = ray.wait(references, num_returns=1, timeout=_WAIT_SECONDS, fetch_local=False)
        if answered:
            answered, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        return list(answered)

    def _collect(self, reference: Reference) -> None:
        """Takes one answer; a fault of the machine sends its batch back, a known error ends the run."""
        call = self._pending.pop(reference, None)
        if call is None:
            return  # its batch was given up a moment ago
        member = call.member
        if call.handle is member.handle:
            member.calls -= 1
        try:
            answer = ray.get(reference)
        except MACHINE_FAULTS as fault:
            self._take_fault(call, fault)
            return
        except LayerscopeError as error:
            raise getattr(error, "cause", error) from None  # Ray's wrapper adds the actor's traceback to the message
        member.deaths = 0
        if call.batch is None:
            member.ready = True
        elif member.block is None:
            self._take_scores(call.batch, answer)
        else:
            scored = self._scored[call.batch]
            scored.blocks[member.block], scored.activations[member.block] = answer, None

    def _take_scores(self, batch: int, scores: Scores) -> None:
        activations = self._activations.pop(batch)
        nothing_to_encode = all(isinstance(outcome, ErrorLine) for outcome in scores.outcomes)
        blocks: list[LayerBlock | None] = [] if nothing_to_encode else [None] * len(activations)
        self._scored[batch] = Scored(scores, activations, blocks)
        self._to_encode += [(batch, block) for block in range(len(blocks))]

    def _take_fault(self, call: Call, fault: Exception) -> None:
        member = call.member
        if isinstance(fault, RayActorError | OutOfMemoryError | WorkerCrashedError) and call.handle is member.handle:
            member.deaths += 1
            if call.batch is None and member.deaths >= MAX_ATTEMPTS:
                raise LayerscopeError(
                    f"An actor died {member.deaths} times while it was starting: {_first_line(fault)}\n"
                    "Most often the memory is too small: take fewer actors, --dtype bfloat16 or fewer layers."
                )
            self._await(member, None, self._crew.start(member))
        if call.batch is not None:
            self._send_back(call.batch, fault)

    def _send_back(self, batch: int, fault: Exception) -> None:
        """Forgets what there is of a batch and puts it in line again."""
        self._failures[batch] += 1
        if self._failures[batch] >= MAX_ATTEMPTS:
            ids = self._job.plan.batch(batch)
            raise LayerscopeError(
                f"Batch {batch} (questions {_some(ids)}) failed {MAX_ATTEMPTS} times: {_first_line(fault)}\n"
                "Everything before it is in the file. Smaller --batch-tokens need less memory; run again to go on."
            )
        for reference, call in list(self._pending.items()):
            if call.batch == batch:
                del self._pending[reference]
                if call.handle is call.member.handle:
                    call.member.calls -= 1
        self._activations.pop(batch, None)
        self._scored.pop(batch, None)
        self._to_encode = [(other, block) for other, block in self._to_encode if other != batch]
        heappush(self._todo, batch)


def _batch_lines(batch: int, scored: Scored) -> BatchLines:
    blocks = [block for block in scored.blocks if block is not None]
    lines = [_line(outcome, blocks) for outcome in scored.scores.outcomes]
    return BatchLines(batch, lines, scored.scores.halved or any(block.halved for block in blocks))


def _line(outcome: Outcome, blocks: list[LayerBlock]) -> Line:
    outcome = settle(outcome, blocks)
    if isinstance(outcome, ErrorLine):
        return Line([outcome.line], None)
    counts = [block.active_counts[:, list(outcome.rows)] for block in blocks]
    cells = sum(count.size for count in counts)
    return Line(join_record(outcome, blocks), outcome, sum(int(count.sum()) for count in counts), cells)


def _some(ids: Any) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
