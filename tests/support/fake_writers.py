"""Writers in memory, and an engine for their head that loses them: each has the real driver and a fake engine.

As in `fake_engine.py` every decision takes a byte of a tape, and a tape that is used up decides well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fake_engine import BATCHES, LEAP, FakeEngine, Tape, expected_lines, job, node
from layerscope.config import Config
from layerscope.engine.budget import Budget
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.interface import ActorLost, EngineLost
from layerscope.engine.writers.posts import Part, Posts
from layerscope.engine.writers.writer import News, Outcome
from layerscope.engine.writers.writers import ToWrite, Writers
from layerscope.errors import LayerscopeError
from layerscope.planning.node import Node
from layerscope.planning.shares import Share, shares
from layerscope.records.totals import Totals

LINES = expected_lines()
STARTS = [0, *np.cumsum([len(batch) for batch in BATCHES]).tolist()]


def batches_of(part: int, parts: int) -> range:
    """The batches of a part, the first being 1, as `Plan.part` has them."""
    return range(len(BATCHES) * (part - 1) // parts, len(BATCHES) * part // parts)


def text_of(part: int, parts: int) -> bytes:
    """A finished part."""
    batches = batches_of(part, parts)
    return b"".join(LINES[STARTS[batches.start] : STARTS[batches.stop]])


@dataclass
class Disk:
    """Files of parts that all nodes see; or of each node its own."""

    parts: int
    files: dict[int, bytes] = field(default_factory=dict)
    locked: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.files = dict.fromkeys(range(1, self.parts + 1), b"")

    def look(self) -> None:
        """Every part is a prefix of the finished one, but for a torn last line."""
        for part, content in self.files.items():
            assert text_of(part, self.parts).startswith(content), "no prefix of the finished part"


@dataclass(eq=False)
class FakeWriter:
    """A writer's process."""

    node_id: str
    disk: Disk
    tape: Tape
    dead: bool = False
    part: int = 0
    told_to_stop: bool = False
    engine: FakeEngine | None = None
    work: Iterator[None] = field(default_factory=lambda: iter(()))
    again: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def begin(self, part: int, the_job: Any, nodes: Sequence[Node]) -> None:
        """Opens the part behind what is there, without a torn line, and has the driver compute the rest."""
        assert part not in self.disk.locked, "two writers have one part"
        self.disk.locked.add(part)
        self.part, batches = part, batches_of(part, self.disk.parts)
        content = self.disk.files[part]
        self.disk.files[part] = content[: content.rfind(b"\n") + 1]
        done = self.disk.files[part].count(b"\n")
        first = next((each for each in batches if STARTS[each + 1] - STARTS[batches.start] > done), batches.stop)
        self.work = iter(self._write(range(first, batches.stop), the_job, nodes))

    def _write(self, batches: range, the_job: Any, nodes: Sequence[Node]) -> Iterator[None]:
        if not batches:
            return
        self.engine = FakeEngine(list(nodes), self.tape)
        crew = Crew(the_job, self.engine, lambda _: None)
        begun = STARTS[batches_of(self.part, self.disk.parts).start]
        budget, tell = Budget(the_job, 1 << 30), self.notes.append
        driver = Driver(the_job, batches, crew, budget, tell, begins_again=self.again.append)
        for of_batch in driver.results(lambda: self.told_to_stop):
            known = max(0, self.disk.files[self.part].count(b"\n") - (STARTS[of_batch.batch] - begun))
            self.disk.files[self.part] += b"".join(list(of_batch.texts())[known:])
            yield

    def die(self) -> None:
        """In the middle of a line, perhaps."""
        self.dead = True
        self.disk.locked.discard(self.part)
        whole = text_of(self.part, self.disk.parts) if self.part else b""
        if len(content := self.disk.files.get(self.part, b"")) < len(whole):
            self.disk.files[self.part] = whole[: len(content) + self.tape() % 40]

    @property
    def lines(self) -> int:
        return self.disk.files[self.part].count(b"\n")


@dataclass
class _Call:
    writer: FakeWriter
    method: str
    arguments: tuple[Any, ...]
    reference: object


@dataclass
class Head(FakeEngine):
    """The engine that a head of writers sees."""

    disk: Disk = field(default_factory=lambda: Disk(1))
    the_job: Any = None
    most: int = 4
    """Nodes that there can be."""
    writers: list[FakeWriter] = field(default_factory=list)
    waiting: list[_Call] = field(default_factory=list)
    others: int = 0
    """Nodes that have joined so far."""
    own_disks: bool = False
    """A node that is lost takes the parts along that were written there."""
    pace: int = 1
    """Waits from one batch to the next."""
    at: dict[int, Callable[[], object]] = field(default_factory=dict)
    """What happens at a wait, whatever the tape says."""

    def start_writer(self, node_id: str) -> FakeWriter:
        here = node_id or min(self.node_ids(), default="")
        self.writers.append(FakeWriter(here, self.disk, self.tape, dead=here not in self.node_ids()))
        return self.writers[-1]

    def submit(self, handle: FakeWriter, method: str, arguments: Sequence[Any], returns: int = 1) -> list[Any]:  # noqa: ARG002
        reference = object()
        if handle.dead:
            self.answered[reference] = ActorLost("it is dead")  # type: ignore[index]
        else:
            self.waiting.append(_Call(handle, method, tuple(arguments), reference))
        return [reference]

    def end(self, handle: FakeWriter) -> None:
        if not handle.dead:
            self._lose(handle)

    def wait(self, references: Sequence[Any], seconds: float) -> list[Any]:
        self.waits += 1
        assert self.waits < 5000, "it never ends"
        if self.waits == self.lost_at_wait + 1:
            raise EngineLost("gone")
        self.at.get(self.waits, lambda: None)()
        self._happen()
        for call in list(self.waiting):
            slow = call.method == "run" and self.waits % self.pace
            if not call.writer.dead and not slow and self.tape() % 4 != 3:
                self._answer_writer(call)
        self.disk.look()
        there = [each for each in references if each in self.answered]
        self.seconds += max(seconds, 1.0) if self.writers and any(not each.dead for each in self.writers) else LEAP
        return there

    def _answer_writer(self, call: _Call) -> None:
        writer = call.writer
        if call.method == "begin":
            answer: Any = (writer.node_id, writer.node_id, not self.own_disks)
        elif call.method == "run":
            task, share = call.arguments
            if not writer.part:
                writer.begin(task.part, task.job, self._there(share.nodes))
            try:
                if next(writer.work, self) is not self:
                    return
            except LayerscopeError as error:
                answer = error
                self._lose(writer)
            else:
                answer = Outcome(writer.lines, 0, self._news(writer))
                self.disk.locked.discard(writer.part)
        elif call.method == "news":
            answer = self._news(writer)
        elif call.method == "stop":
            writer.told_to_stop, answer = True, None
        else:
            assert call.method == "use"
            if writer.engine is not None:
                writer.engine.nodes = self._there(call.arguments[0])
            answer = None
        self.answered[call.reference] = answer  # type: ignore[index]
        if call in self.waiting:
            self.waiting.remove(call)

    def _there(self, nodes: Sequence[Node]) -> list[Node]:
        here = self.node_ids()
        return [each for each in nodes if each.identity in here]

    def _news(self, writer: FakeWriter) -> News:
        again, writer.again = sum(writer.again), []
        return News(Totals(questions=writer.lines if writer.part else 0), True, (), again)

    def _lose(self, writer: FakeWriter) -> None:
        writer.die()
        for call in [call for call in self.waiting if call.writer is writer]:
            self.waiting.remove(call)
            self.answered[call.reference] = ActorLost("it died")  # type: ignore[index]

    def _happen(self) -> None:
        """What befalls writers and nodes; their actors' own engines have their share of the tape."""
        kind, which = self.tape() % 12, self.tape()
        alive = [each for each in self.writers if not each.dead]
        if kind == 1 and alive:
            self._lose(alive[which % len(alive)])
        elif kind == 2 and self.nodes:
            self.lose(self.nodes[which % len(self.nodes)].identity)
        elif kind == 3 and self.nodes:
            self.drained.add(self.nodes[which % len(self.nodes)].identity)
        elif kind == 4 and len(self.nodes) < self.most:
            self.join()

    def lose(self, node_id: str) -> None:
        """A node is gone, its writers and the actors of others there too."""
        self.nodes = [each for each in self.nodes if each.identity != node_id]
        for writer in self.writers:
            if writer.dead:
                continue
            if writer.node_id == node_id:
                self._lose(writer)
            elif writer.engine is not None:
                writer.engine.lose_node(node_id)
        if self.own_disks:
            there = {writer.part: writer.node_id for writer in self.writers if writer.part}  # the last writer's counts
            self.disk.files.update((part, b"") for part, place in there.items() if place == node_id)

    def join(self, gpus: int = 0, **more: Any) -> None:
        self.others += 1
        self.nodes.append(node(f"more-{self.others}", gpus, **more))


@dataclass
class Shown:
    """What a person would see."""

    told: list[str] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    begun_again: int = 0

    def note(self, text: str) -> None:
        self.told.append(text)

    def begin(self) -> None:
        pass

    def begin_again(self, questions: int) -> None:
        self.begun_again += questions

    def update(self) -> None:
        pass


def job_of(nodes: Sequence[Node], parts: int, gemma_actors: int | None = None, device: str = "cpu") -> Any:
    """A job in parts; what shares and heads read of one."""
    made = job(Config(device=device, gemma_actors=gemma_actors, output_file="x.jsonl"), nodes)
    made.output = SimpleNamespace(parts=tuple(range(parts)))
    return made


def head(
    engine: Head, the_job: Any, parts: int, stopped: Callable[[], bool] = lambda: False
) -> tuple[Writers, Posts, Shown]:
    """A head as `run_parts` sets it up, over what is on the disk."""
    shown = Shown()

    def part(number: int) -> Part:
        planned = sum(len(BATCHES[batch]) for batch in batches_of(number, parts))
        return Part(number, planned, Totals(questions=engine.disk.files[number].count(b"\n")))

    def task(number: int, share: Share, again: bool) -> Any:  # noqa: ARG001
        own = SimpleNamespace(**{**vars(the_job), "crew": share.crew, "placement": share.placement})
        return SimpleNamespace(part=number, job=own)

    placed = shares(the_job, engine.nodes)
    known = [part(number) for number in range(1, parts + 1)]
    to_write = ToWrite(Path("x.jsonl"), b"", known, task, engine.start_writer)
    posts = Posts(the_job, placed, engine, shown.note)
    return Writers(to_write, posts, engine, shown, stopped), posts, shown
