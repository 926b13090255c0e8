"""The actors: numbers in the process of their node, which sleep as long as a GPU would compute."""

import asyncio
import os
import pickle
import random
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.engine.batches.answers import Arrival, Encoded
from layerscope.engine.batches.lines import PackedLines
from layerscope.engine.cluster.logs import Span
from layerscope.planning.machine import probe
from layerscope.questions.sources import Question
from layerscope.records.manifest.fingerprints import Fingerprint
from simulation.answers import Answers
from simulation.nodes import GPU
from simulation.workload import Features, first_rows

ACTIVATION_BYTES = 128 << 10  # above 100 KiB Ray passes a reference, below it the value
STRAGGLER = 3  # times slower
NO_NUMBERS = Fingerprint(digests={}, circumstances={})

Key = tuple[int, int]
"""An actor: how many batches of the plan come before those of its driver, and a number that nobody else of them has."""


class Host:
    """The process of a node's actors of one kind. An actor is a number here, with a queue of its own."""

    def __init__(self) -> None:
        self._arrival = Arrival(replace(probe(), gpus=(GPU,)), ray.get_runtime_context().get_node_id(), os.getpid())
        self._free_at: dict[Key, float] = {}

    @ray.method(max_task_retries=-1)  # waits for a process that is starting again
    async def begin(self, actor: Key) -> Arrival:
        self._free_at[actor] = time.monotonic()
        return self._arrival

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def _compute(self, actor: Key, seconds: float) -> Span:
        if actor not in self._free_at:
            raise ActorDiedError  # with the process that was here before
        began = time.time()
        self._free_at[actor] = max(self._free_at[actor], time.monotonic()) + seconds
        await asyncio.sleep(self._free_at[actor] - time.monotonic())
        return Span(began, time.time())


@ray.remote(num_cpus=0, max_restarts=-1)
class GemmaHost(Host):
    def __init__(self, answers: Path, rate: float, stragglers: float, seed: int) -> None:
        """Args:
        rate: questions per second of an actor.
        """
        super().__init__()
        self._answers, self._rate, self._stragglers, self._seed = Answers(answers), rate, stragglers, seed

    async def load(self, _actor: Key, _repository: Any, _spec: Any, blocks: Any, *_: Any) -> Fingerprint:
        self._n_blocks = len(blocks)
        return NO_NUMBERS

    async def score(self, actor: Key, batch: int, questions: list[Question], apart: bool = False) -> tuple[Any, ...]:
        slow = random.Random(f"{self._seed} {actor}").random() < self._stragglers
        span = await self._compute(actor, len(questions) / self._rate * (STRAGGLER if slow else 1))
        activations = np.zeros(ACTIVATION_BYTES // 8, np.int64)
        activations[0] = len(questions)
        scores = self._answers.scores(actor[0] + batch)._replace(span=span)
        if apart:
            return (scores._replace(outcomes=None), scores, *[activations] * self._n_blocks)
        return (scores, *[activations] * self._n_blocks)


@ray.remote(num_cpus=0, max_restarts=-1)
class EncoderHost(Host):
    def __init__(self, answers: Path, rate: float, features: Path, log: Path) -> None:
        """Args:
        features: pickled.
        log: gets a line for every block: its batch in the plan, and when it was done.
        """
        super().__init__()
        self._answers, self._rate, self._log = Answers(answers), rate, log
        self._features: Features = pickle.loads(features.read_bytes())
        self._layers: dict[Key, tuple[int, ...]] = {}

    async def load(self, actor: Key, layers: Sequence[int], *_: Any) -> Fingerprint:
        self._layers[actor] = tuple(layers)
        return NO_NUMBERS

    async def encode(
        self, actor: Key, batch: int, activations: Any, _k: int | None, apart: bool = False
    ) -> Encoded | tuple[Encoded, None]:
        n_questions = int(activations[0])
        span = await self._compute(actor, n_questions / self._rate)
        with self._log.open("a", encoding="ascii") as log:
            log.write(f"{actor[0] + batch} {span.end}\n")
        block = first_rows(self._features[self._layers[actor]], 2 * n_questions)
        # What goes from encoder to encoder, to be compressed, is none of the driver's: it was compressed before.
        return (Encoded(None, span, block.nbytes), None) if apart else Encoded(block, span, block.nbytes)

    async def pack(self, actor: Key, batch: int, *_: Any) -> PackedLines:
        return PackedLines(self._answers.lines(actor[0] + batch)._replace(batch=batch), Span(time.time(), time.time()))


@dataclass(frozen=True)
class Kind:
    """Of actor: what a process of theirs is made with."""

    name: str
    """That nothing else has."""
    host: Any
    arguments: tuple[Any, ...]
    per_waiting: int
    """Actors that wait for one node that joins late."""


class Hosts:
    """The actors of a kind that work for one driver: numbers in the processes of their nodes, which all drivers share.

    Args:
        first: how many batches of the plan come before those of this driver.
    """

    def __init__(self, kind: Kind, first: int = 0) -> None:
        self._kind, self._first = kind, first
        self._on: dict[str, Any] = {}  # by Ray's id of the node
        self._waiting: list[tuple[Any, set[Key]]] = []  # for a node that joins late, and who is there
        self._numbers = count(os.getpid() << 20)  # another driver of the same batches has others
        self.actors: dict[Key, Any] = {}
        """The host of every actor that was not sent away."""

    def start(self, nodes: Iterable[str]) -> None:
        """Starts the processes of some nodes and waits for them."""
        ray.get([self._host_on(node).begin.remote((-1, -1)) for node in set(nodes)])

    def hire(self, node_id: str) -> "Actor":
        """A new actor on a node; on one that joins late if it has no name."""
        key = self._first, next(self._numbers)
        self.actors[key] = self._host_on(node_id) if node_id else self._waiting_host(key)
        return Actor(key, self)

    def dismiss(self, key: Key) -> None:
        self.actors.pop(key, None)
        for _, actors in self._waiting:
            actors.discard(key)

    def kill_one(self, dice: random.Random) -> int:
        """Kills a process; gives how many actors of this driver were in it."""
        host = dice.choice(list(self._on.values()))
        host.die.remote()
        return sum(other is host for other in self.actors.values())

    def end(self) -> None:
        for host in [*self._on.values(), *(host for host, _ in self._waiting)]:
            ray.kill(host)

    def _host_on(self, node: str) -> Any:
        if node not in self._on:
            self._on[node] = self._kind.host.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                name=f"{self._kind.name} {node}",
                lifetime="detached",  # whichever driver asks for it first
                get_if_exists=True,
            ).remote(*self._kind.arguments)
        return self._on[node]

    def _waiting_host(self, key: Key) -> Any:
        for host, actors in self._waiting:
            if len(actors) < self._kind.per_waiting:
                actors.add(key)
                return host
        host = self._kind.host.options(resources={"late": 1}).remote(*self._kind.arguments)
        self._waiting.append((host, {key}))
        return host


@dataclass(frozen=True)
class Actor:
    """Stands where crew and driver expect an actor's handle."""

    key: Key
    hosts: Hosts

    def __getattr__(self, method: str) -> "Method":
        return Method(getattr(self.hosts.actors[self.key], method), self.key)


@dataclass(frozen=True)
class Method:
    """A method of a host, for one of its actors."""

    method: Any
    actor: Key

    def options(self, **options: Any) -> "Method":
        return Method(self.method.options(**options), self.actor)

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.actor, *arguments)
