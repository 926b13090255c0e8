"""An engine that runs nothing: it answers as real actors would, and as a tape of bytes says, worse.

Every decision takes a byte of the tape: which calls are answered next and in which order, which are delayed or answered
twice, which actors and nodes die. A tape that is used up decides well, so that every schedule ends.
"""

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from layerscope.config import Config
from layerscope.engine.batches.answers import Arrival, Encoded, Scores
from layerscope.engine.batches.lines import PackedLines, batch_lines, packed
from layerscope.engine.cluster.logs import Span
from layerscope.engine.crew import CALLS_PER_GEMMA_ACTOR
from layerscope.engine.interface import ActorLost, AnswerLost, EngineLost
from layerscope.planning.needs import Needs
from layerscope.planning.node import Gpu, Node
from layerscope.planning.placement import Seat
from layerscope.planning.placing import place
from layerscope.planning.settings import settle_crew
from layerscope.questions.reading import FINAL
from layerscope.questions.sources import Question
from layerscope.records.line.feature_lists import LayerBlock, serialise_block
from layerscope.records.line.lines import Outcome, error_line, frame_record, join_record
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.manifest.fingerprints import Fingerprint
from layerscope.records.manifest.identity import Packing
from layerscope.records.writing.packing import packing_of

BATCHES = ((4, 0), (2,), (1, 3), (5, 6), (7,))
"""The plan: the questions of every batch."""
UNSCORABLE = {1, 3, 6}
LAYERS = (0, 1, 2)
LEAP = 9.0
"""Seconds that pass at once while nothing can be answered any more."""
SOFTWARE = (("layerscope", "0"), ("torch", "2"))


def node(name: str, gpus: int = 0, cpus: int = 8, kind: str = "H100", **more: Any) -> Node:
    cards = (Gpu(kind, 80 << 30),) * gpus
    return Node(name, cpus, 64 << 30, cards, "EPYC", name, kind if gpus else "", software=SOFTWARE, **more)


class Questions(list[Question]):
    """So many made-up ones, as a selection reads them."""

    def __init__(self, count: int) -> None:
        super().__init__(Question(i, f"goal {i}", f"one {i}", f"two {i}", i % 2) for i in range(count))

    def read(self, example_ids: Sequence[int]) -> Iterator[Question]:
        return map(self.__getitem__, example_ids)


def job(config: Config, nodes: Sequence[Node], batches: Sequence[Sequence[int]] = BATCHES) -> Any:
    """A job of small questions; what the driver and the crew read of one."""
    crew = settle_crew(config, nodes, 64)
    needs = Needs(1 << 30, dict.fromkeys(LAYERS, 1 << 20), 64)
    return SimpleNamespace(
        patience=config.patience,
        packing=packing_of(Path(config.output_file)),
        crew=crew,
        placement=place(crew, nodes, needs),
        needs=needs,
        numerics=SimpleNamespace(dtype="float32", sae_dtype="float32", threads=1, top_k=10, batch_tokens=1000),
        plan=SimpleNamespace(batch=lambda number: batches[number]),
        selection=Questions(sum(map(len, batches))),
        reading=FINAL,
        layers=LAYERS,
        dictionaries=[],
        spec=None,  # for actors alone
        d_read=64,
        model=None,
        ablation=None,
        software=dict(SOFTWARE),
        n_questions=sum(map(len, batches)),
        estimated_bytes=lambda: 1000,
        residual_bytes=lambda: 0,
    )


class Reference:
    """Stands for a value; who holds it keeps the value alive."""

    __slots__ = ("__weakref__", "about", "batch")

    def __init__(self, batch: int, about: Any = None) -> None:
        self.batch, self.about = batch, about


class Actor:
    """An actor's process."""

    def __init__(self, seat: Seat, node: Node | None, accelerator: str) -> None:
        self.seat, self.node, self.accelerator = seat, node, accelerator
        self.layers: tuple[int, ...] = ()
        self.blocks: tuple[tuple[int, ...], ...] = ()
        self.dead = self.loaded = False

    @property
    def node_id(self) -> str:
        """Where it is, which its engine's nodes may no longer be: nothing if it waits for room."""
        return self.node.identity if self.node else ""


@dataclass
class Call:
    actor: Actor
    method: str
    arguments: tuple[Any, ...]
    answers: list[Reference]
    hung: bool = False


class Tape:
    """Decisions, a byte each; zero for ever behind its end."""

    def __init__(self, data: bytes) -> None:
        self._bytes: Iterator[int] = iter(data)

    def __call__(self) -> int:
        return next(self._bytes, 0)


@dataclass
class FakeEngine:
    """See the module's first lines. Rules of its own are asserted wherever the driver and the crew could break them."""

    nodes: list[Node]
    tape: Tape = field(default_factory=lambda: Tape(b""))
    store: weakref.WeakSet[Reference] = field(default_factory=weakref.WeakSet)
    """The activations that somebody still holds."""
    calls: list[Call] = field(default_factory=list)
    answered: dict[Reference, Any] = field(default_factory=dict)
    actors: list[Actor] = field(default_factory=list)
    measured: Counter[str] = field(default_factory=Counter)
    most_held: int = 0
    seconds: float = 0.0
    waits: int = 0
    lost_at_wait: int = -1
    """The wait at which the engine is gone."""
    hangs: int = 0
    """Forward passes that never end."""
    kills_its_actor: int = -1
    """The batch that does."""
    sleeps: float = 0.0
    """Seconds for which everybody is stopped in mid-run, once."""
    other_bits: set[str] = field(default_factory=set)
    """Nodes whose last digits are others."""
    drained: set[str] = field(default_factory=set)
    """Nodes that are about to leave."""
    error: Exception | None = None
    """What the next forward pass raises."""

    def now(self) -> float:
        return self.seconds

    def start(self, seat: Seat, node_id: str, accelerator: str, calls_at_once: int) -> Actor:
        assert calls_at_once in (1, CALLS_PER_GEMMA_ACTOR)
        asked = next((node for node in self.usable_nodes() if node.identity == node_id), None)
        here = asked or self._room_for(seat, accelerator)
        self.actors.append(Actor(seat, here, accelerator))
        return self.actors[-1]

    def end(self, handle: Actor) -> None:
        self._die(handle)

    def submit(self, handle: Actor, method: str, arguments: Sequence[Any], returns: int = 1) -> list[Reference]:
        assert method in ("begin", "load") or handle.loaded or handle.dead, "work for an actor that has loaded nothing"
        batch = arguments[0] if method in ("score", "encode", "pack") else -1
        answers = [Reference(batch, method if not index else None) for index in range(returns)]
        if method == "score":
            self.store.update(answers[len(arguments) - 1 :])  # but for the outcomes, where they are apart
        self.most_held = max(self.most_held, len(self.store))
        call = Call(handle, method, tuple(arguments), answers)
        if handle.dead:
            self.answered[answers[0]] = ActorLost("it is dead")
        else:
            self.calls.append(call)
        return answers

    def wait(self, references: Sequence[Reference], seconds: float) -> list[Reference]:
        self.waits += 1
        if self.waits == self.lost_at_wait + 1:
            raise EngineLost("gone")
        self._disturb()
        self._misbehave()
        # An actor works in order: it is its first call that can be answered.
        ready = [call for call in self._at_work() if call.actor.node_id and not call.hung]
        for _ in range(6 - self.tape() % 6):
            if ready:
                self._answer(ready.pop(self.tape() % len(ready)))
        there = [reference for reference in references if reference in self.answered]
        self.seconds += 0.01 if there else seconds if self.calls and not self.calls[0].hung else LEAP
        for index in range(len(there) - 1, 0, -1):
            other = self.tape() % (index + 1)
            other = index if not other else other - 1
            there[index], there[other] = there[other], there[index]
        return there + there[: self.tape() % 2]

    def fetch(self, reference: Reference) -> Any:
        answer = self.answered[reference]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def measure(self, name: str, value: float, **_: str) -> None:
        self.measured[name] += value  # type: ignore[assignment]

    def node_ids(self) -> set[str]:
        return {node.identity for node in self.nodes}

    def leaving(self) -> set[str]:
        return self.drained & self.node_ids()

    def usable_nodes(self) -> list[Node]:
        return [each for each in self.nodes if each.identity not in self.drained]

    def resources(self) -> str:
        return f"{len(self.nodes)} nodes"

    def launching(self) -> str:
        return ""

    def seat_waiting_actors(self) -> None:
        """Gives those that wait for room a place, as Ray does once there is some."""
        for actor in self.actors:
            if not actor.node and not actor.dead:
                actor.node = self._room_for(actor.seat, actor.accelerator)

    def lose_node(self, node_id: str) -> None:
        self.nodes = [node for node in self.nodes if node.identity != node_id]
        for actor in self.actors:
            if actor.node_id == node_id:
                self._die(actor)

    def _room_for(self, seat: Seat, accelerator: str) -> Node | None:
        for node in self.usable_nodes():
            here = [a.seat.share for a in self.actors if a.node_id == node.identity and not a.dead]
            cpus = node.cpus - sum(share.num_cpus for share in here)
            gpus = len(node.gpus) - sum(share.num_gpus for share in here)
            if cpus >= seat.share.num_cpus and gpus >= seat.share.num_gpus and accelerator in ("", node.accelerator):
                return node
        return None

    def _at_work(self) -> list[Call]:
        """The first call of every actor that has any."""
        first: dict[Actor, Call] = {}
        for call in self.calls:
            first.setdefault(call.actor, call)
        return list(first.values())

    def _disturb(self) -> None:
        kind, which = self.tape() % 16, self.tape()
        if not kind:
            return
        at_work = [call.actor for call in self.calls if call.method in ("score", "encode", "pack")]
        if kind == 1 and at_work:
            self._die(at_work[which % len(at_work)])
        elif kind == 2 and self.actors:
            self._die(self.actors[-1 - which % len(self.actors)])
        elif kind == 3:  # what an actor returned is lost, and it goes on
            for reference in list(self.store)[which % 3 :: 3]:
                self.answered.setdefault(reference, AnswerLost("the node that held it is gone"))
        elif kind == 4:
            self.seconds += which  # as if this process had slept
        elif kind == 5 and at_work:
            next(call for call in self.calls if call.actor is at_work[which % len(at_work)]).hung = True
        elif kind == 6:
            for reference in list(self.answered)[which % 4 :: 4]:
                self.answered[reference] = AnswerLost("lost on its way")

    def _misbehave(self) -> None:
        """What a test asked for by name."""
        if self.kills_its_actor < 0 and not self.hangs and not self.sleeps:
            return
        scoring = [call for call in self._at_work() if call.method == "score"]
        for call in scoring:
            if call.arguments[0] == self.kills_its_actor:
                self._die(call.actor)
            elif self.hangs and not call.hung:
                self.hangs, call.hung = self.hangs - 1, True
        if scoring and self.sleeps:
            self.seconds, self.sleeps = self.seconds + self.sleeps, 0.0

    def _die(self, actor: Actor) -> None:
        actor.dead, actor.loaded = True, False
        for call in [call for call in self.calls if call.actor is actor]:
            self.calls.remove(call)
            self.answered[call.answers[0]] = ActorLost("it died")

    def _answer(self, call: Call) -> None:
        self.calls.remove(call)
        actor, (answer, *activations) = call.actor, call.answers
        if call.method == "begin":
            self.answered[answer] = Arrival(actor.node, actor.node_id, 1)
        elif call.method == "load":
            actor.loaded = True
            if actor.seat.block is None:
                actor.blocks = call.arguments[2]
            else:
                actor.layers = tuple(call.arguments[0])
            self.answered[answer] = self._fingerprint(actor)
        elif call.method == "score":
            self._score(call, answer, activations)
        elif call.method == "encode":
            batch, activation, *_ = call.arguments
            if activation in self.answered:
                self.answered[answer] = self.answered[activation]
            else:
                assert activation.batch == batch
                assert activation.about == actor.layers, "an encoder got another block's activations"
                found = BLOCKS[batch, actor.layers]
                self.answered[answer] = Encoded(None if activations else found, Span(0, 0), found.nbytes)
                self.answered.update(dict.fromkeys(activations, found))
        else:
            self._pack(answer, *call.arguments)

    def _pack(self, answer: Reference, batch: int, how: Packing, *given: Reference) -> None:
        assert all(one.batch == batch for one in given), "another batch's values are compressed"
        values = [self.answered[one] for one in given]
        if lost := [value for value in values if isinstance(value, Exception)]:
            self.answered[answer] = lost[0]
        else:
            scores, *blocks = values
            self.answered[answer] = PackedLines(packed(batch_lines(batch, scores, blocks), how), Span(0, 0))

    def _fingerprint(self, actor: Actor) -> Fingerprint:
        names = ["model"] if actor.seat.block is None else [f"sae {layer}" for layer in actor.layers]
        bits = "others" if actor.node_id in self.other_bits else "these"
        return Fingerprint(digests=dict.fromkeys(names, bits), circumstances={"MKL_CBWR": bits})

    def _score(self, call: Call, answer: Reference, activations: list[Reference]) -> None:
        batch, questions, *apart = call.arguments
        if self.error is not None:
            self.answered[answer], self.error = self.error, None
            return
        scores = SCORES[batch]
        if apart:
            whole, *activations = activations
            self.answered[whole], scores = scores, scores._replace(outcomes=None)
        assert len(activations) == len(call.actor.blocks)
        for activation, layers in zip(activations, call.actor.blocks, strict=True):
            activation.about = layers
        assert [question.example_id for question in questions] == list(BATCHES[batch])
        self.answered[answer] = scores


def outcomes(questions: Sequence[Question]) -> list[Outcome]:
    scorable = [question.example_id for question in questions if question.example_id not in UNSCORABLE]
    return [
        error_line(question.example_id, "no")
        if question.example_id in UNSCORABLE
        else _frame(question, scorable.index(question.example_id))
        for question in questions
    ]


def _frame(question: Question, index: int) -> Outcome:
    first, second = (SolutionScore(-1.5 - question.example_id - i, 3, "x") for i in (0, 1))
    return frame_record(question, (first, second), (2 * index, 2 * index + 1))


def block(batch: int, layers: Sequence[int]) -> LayerBlock:
    """The features of a block of layers for every row of a batch."""
    rows = 2 * sum(example_id not in UNSCORABLE for example_id in BATCHES[batch])

    def found(layer: int) -> Any:
        activations = (1 + batch + layer + np.arange(rows, dtype=np.float32)) / 7
        ids, ones = 10 * batch + np.arange(rows), np.ones(rows, np.int64)
        return SimpleNamespace(feature_ids=ids, activations=activations, starts=np.arange(rows + 1), active_counts=ones)

    return serialise_block(layers, [found(layer) for layer in layers])


BLOCKS = {
    (batch, layers): block(batch, layers)
    for batch, ids in enumerate(BATCHES)
    for layers in ((0, 1, 2), (0, 1), (2,), (0,), (1,))
    if set(ids) - UNSCORABLE
}


QUESTIONS = job(Config(device="cpu"), [node("n")]).selection
SCORES = {
    batch: Scores.of(outcomes([QUESTIONS[i] for i in ids]), False, 10, Span(0, 0)) for batch, ids in enumerate(BATCHES)
}


def expected_lines() -> list[bytes]:
    """The file, line by line, as the plain functions make it from the whole of the layers."""
    lines = []
    for batch, ids in enumerate(BATCHES):
        for outcome in outcomes([QUESTIONS[i] for i in ids]):
            pieces = join_record(outcome, [BLOCKS[batch, LAYERS]]) if hasattr(outcome, "rows") else [outcome.line]
            lines.append(b"".join(pieces))
    return lines
