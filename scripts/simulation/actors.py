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

from layerscope.engine.answers import Arrival, Encoded, Scores
from layerscope.engine.lines import BatchLines, PackedLines
from layerscope.engine.logs import Span
from layerscope.planning.machine import probe
from layerscope.questions.sources import Question
from layerscope.records.fingerprints import Fingerprint
from simulation.nodes import GPU
from simulation.workload import Features, first_rows, make_frame

ACTIVATION_BYTES = 128 << 10  # above 100 KiB Ray passes a reference, below it the value
STRAGGLER = 3  # times slower
NO_NUMBERS = Fingerprint(digests={}, circumstances={})


class Host:
    """The process of a node's actors of one kind. An actor is a number here, with a queue of its own."""

    def __init__(self) -> None:
        self._arrival = Arrival(replace(probe(), gpus=(GPU,)), ray.get_runtime_context().get_node_id(), os.getpid())
        self._free_at: dict[int, float] = {}

    @ray.method(max_task_retries=-1)  # waits for a process that is starting again
    async def begin(self, actor: int) -> Arrival:
        self._free_at[actor] = time.monotonic()
        return self._arrival

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def _compute(self, actor: int, seconds: float) -> Span:
        if actor not in self._free_at:
            raise ActorDiedError  # with the process that was here before
        began = time.time()
        self._free_at[actor] = max(self._free_at[actor], time.monotonic()) + seconds
        await asyncio.sleep(self._free_at[actor] - time.monotonic())
        return Span(began, time.time())


@ray.remote(num_cpus=0, max_restarts=-1)
class GemmaHost(Host):
    def __init__(self, rate: float, stragglers: float, seed: int) -> None:
        """Args:
        rate: questions per second of an actor.
        """
        super().__init__()
        self._rate, self._stragglers, self._seed = rate, stragglers, seed

    async def load(self, _actor: int, _repository: Any, _spec: Any, blocks: Any, *_: Any) -> Fingerprint:
        self._n_blocks = len(blocks)
        return NO_NUMBERS

    async def score(self, actor: int, _batch: int, questions: list[Question]) -> tuple[Any, ...]:
        slow = random.Random(f"{self._seed} {actor}").random() < self._stragglers
        span = await self._compute(actor, len(questions) / self._rate * (STRAGGLER if slow else 1))
        outcomes = [make_frame(question, index) for index, question in enumerate(questions)]
        activations = np.zeros(ACTIVATION_BYTES // 8, np.int64)
        activations[0] = len(questions)
        return (Scores(list(outcomes), False, 48 * len(questions), span), *[activations] * self._n_blocks)


@ray.remote(num_cpus=0, max_restarts=-1)
class EncoderHost(Host):
    def __init__(self, rate: float, features: Path, packed: Path, log: Path) -> None:
        """Args:
        features: pickled.
        packed: the compressed lines of every batch, pickled.
        log: gets a line for every block: its batch, and when it was done.
        """
        super().__init__()
        self._rate, self._log = rate, log
        self._features: Features = pickle.loads(features.read_bytes())
        self._packed: dict[int, BatchLines] = pickle.loads(packed.read_bytes())
        self._layers: dict[int, tuple[int, ...]] = {}

    async def load(self, actor: int, layers: Sequence[int], *_: Any) -> Fingerprint:
        self._layers[actor] = tuple(layers)
        return NO_NUMBERS

    async def encode(
        self, actor: int, batch: int, activations: Any, _k: int | None, apart: bool = False
    ) -> Encoded | tuple[Encoded, None]:
        n_questions = int(activations[0])
        span = await self._compute(actor, n_questions / self._rate)
        with self._log.open("a", encoding="ascii") as log:
            log.write(f"{batch} {span.end}\n")
        block = first_rows(self._features[self._layers[actor]], 2 * n_questions)
        # What goes from encoder to encoder, to be compressed, is none of the driver's: it was compressed before.
        return (Encoded(None, span, block.nbytes), None) if apart else Encoded(block, span, block.nbytes)

    async def pack(self, _actor: int, batch: int, *_: Any) -> PackedLines:
        return PackedLines(self._packed[batch], Span(time.time(), time.time()))


class Hosts:
    """The actors of one kind: numbers in the process of their node."""

    def __init__(self, host_class: Any, per_waiting: int, *arguments: Any) -> None:
        self._class, self._per_waiting, self._arguments = host_class, per_waiting, arguments
        self._on: dict[str, Any] = {}  # by Ray's id of the node
        self._waiting: list[tuple[Any, set[int]]] = []  # for a node that joins late, and who is there
        self._numbers = count()
        self.actors: dict[int, Any] = {}
        """The host of every actor that was not sent away."""

    def start(self, nodes: Iterable[str]) -> None:
        """Starts the processes of some nodes and waits for them."""
        ray.get([self._host_on(node).begin.remote(-1) for node in set(nodes)])

    def hire(self, node_id: str) -> "Actor":
        """A new actor on a node; on one that joins late if it has no name."""
        number = next(self._numbers)
        self.actors[number] = self._host_on(node_id) if node_id else self._waiting_host(number)
        return Actor(number, self)

    def dismiss(self, number: int) -> None:
        self.actors.pop(number, None)
        for _, actors in self._waiting:
            actors.discard(number)

    def kill_one(self, dice: random.Random) -> int:
        """Kills a process; gives how many actors were in it."""
        host = dice.choice(list(self._on.values()))
        host.die.remote()
        return sum(other is host for other in self.actors.values())

    def end(self) -> None:
        for host in [*self._on.values(), *(host for host, _ in self._waiting)]:
            ray.kill(host)

    def _host_on(self, node: str) -> Any:
        if node not in self._on:
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            self._on[node] = self._class.options(scheduling_strategy=here).remote(*self._arguments)
        return self._on[node]

    def _waiting_host(self, number: int) -> Any:
        for host, actors in self._waiting:
            if len(actors) < self._per_waiting:
                actors.add(number)
                return host
        self._waiting.append((self._class.options(resources={"late": 1}).remote(*self._arguments), {number}))
        return self._waiting[-1][0]


@dataclass(frozen=True)
class Actor:
    """Stands where crew and driver expect an actor's handle."""

    number: int
    hosts: Hosts

    def __getattr__(self, method: str) -> "Method":
        return Method(getattr(self.hosts.actors[self.number], method), self.number)


@dataclass(frozen=True)
class Method:
    """A method of a host, for one of its actors."""

    method: Any
    actor: int

    def options(self, **options: Any) -> "Method":
        return Method(self.method.options(**options), self.actor)

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.actor, *arguments)
