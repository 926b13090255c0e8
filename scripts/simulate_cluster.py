#!/usr/bin/env python3
"""Measures the one driver under a cluster of many GPUs that are not there: how many of them can it serve?

    scripts/simulate_cluster.py [--actors 1 8 64 256] [--deaths 0.02] [--stragglers 0.05] [--late 0.25] [--json FILE]

Real: the driver, the crew, `place`, the plan, the bytes of the records (made by `records.py`), the journal with its
syncs, and Ray: a head node for the driver and a node (raylet, object store, agents) for every `--gpus-per-node` GPUs,
with every byte of a record carried between them.

Simulated: a node's GPUs are what an `nvidia-smi` of the script's own says. The Gemma actors of a node are one process,
and so are its encoders, because 256 processes do not fit a small machine; in it each answers one call after the other
and sleeps as long as its GPU would compute. The features of one batch are made, and returned for every batch. Encoders
keep up with the Gemma actors, with a fifth to spare. Activations are of 128 KiB, enough to travel by reference as real
ones do; the driver touches neither.
A death is a SIGKILL of such a process, with all actors in it; Ray starts the process again. A straggler works at a
third of the speed. Late nodes join when a quarter of the questions is written.

Every line of the file is compared with what the plain functions give for its place in the plan.

A small machine runs out of cores long before the driver does, so two figures are told apart. Measured is what came
out. Derived is 1 / (what a question costs the busier of the driver's two threads, the one that drives and the one that
writes), as if each had a core of its own: its CPU time alone, or with its waits for objects or for the disk.

How fast a GPU is (`--questions-per-second-per-gpu`): Gemma-2-2B has 2.0e9 parameters beside the embedding, and a
question 48 tokens with shared prefixes: 2 x 2.0e9 x 48 = 1.9e11 FLOP. The output projection at about 34 positions:
2 x 256,000 x 2,304 x 34 = 0.4e11. Half of an H100's 800 TFLOP/s in bfloat16: 4e14 / 2.3e11 = 1,700 a second.
"""

import argparse
import asyncio
import json
import logging
import os
import pickle
import random
import signal
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson
import psutil
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import ActorDiedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.config import Config
from layerscope.engine import cluster
from layerscope.engine.answers import Arrival, Encoded, Scores
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.logs import Span
from layerscope.hub.repository import Repository
from layerscope.models.spec import GemmaSpec
from layerscope.planning.job import Job, Output
from layerscope.planning.machine import probe
from layerscope.planning.needs import Needs
from layerscope.planning.node import Node
from layerscope.planning.placing import place
from layerscope.planning.settings import Numerics, settle_crew
from layerscope.questions.pairs import Pair
from layerscope.questions.plan import make_plan
from layerscope.questions.sources import Question, select_questions
from layerscope.records.journal import open_journal
from layerscope.records.lines import Frame, LayerBlock, SolutionScore, frame_record, join_record, serialise_block
from layerscope.records.manifest import About, Identity, ModelFiles, PlanSize, SaeFile, SaeFiles, Settings, Tokens
from layerscope.records.run import read_lines
from layerscope.records.write_behind import WriteBehind
from layerscope.saes.gemma_scope import SaeChoice

N_LAYERS, D_MODEL, D_SAE, PARAMETERS = 26, 2304, 16384, 2_614_000_000
ACTIVATION_BYTES = 128 << 10  # above 100 KiB Ray passes a reference, below it the value
ENCODER_LOAD = 0.8
STRAGGLER = 3  # times slower
RECORD_BYTES = 280_000
LATE = 0.25  # of the questions are written when late nodes join

Features = dict[tuple[int, ...], LayerBlock]  # by the layers of a block


def main() -> None:
    options = parse()
    store = int(4e9 * options.gigabytes) + (100 << 20)  # of which the driver fills less than a third
    with (
        tempfile.TemporaryDirectory(prefix="layerscope-simulation-", dir=options.folder) as folder,
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray_folder,  # a socket's path must be short
        patch.dict(os.environ, RAY_TMPDIR=ray_folder),  # so that nobody joins it by mistake
        simulated_cluster(options, store, Path(folder)) as nodes,
    ):
        runs = []
        for n_actors in sorted(options.actors):
            print(f"{n_actors} Gemma actors …", file=sys.stderr, flush=True)
            runs.append(simulate(n_actors, options, nodes, Path(folder)))
            note(f"{runs[-1].questions / runs[-1].wall:,.0f} questions/s")
    print(table(runs, options.questions_per_second_per_gpu))
    if options.json:
        report = {"options": vars(options), "cpus": len(os.sched_getaffinity(0)), "runs": list(map(asdict, runs))}
        options.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--actors", type=int, nargs="+", default=[1, 8, 64, 256], help="Gemma actors: a run for each number")
    add("--questions-per-second-per-gpu", type=float, default=1700.0)
    add("--seconds", type=float, default=20.0, help="a run has so much work, at the GPUs' speed")
    add("--gigabytes", type=float, default=2.0, help="and writes at most so much")
    add("--batch-tokens", type=int, default=8192)
    add("--top-k", type=int, default=100)
    add("--gpus-per-node", type=int, default=32, help="a node costs this machine three processes")
    add("--one-node", action="store_true", help="the driver's node is the one with the GPUs: no byte is carried")
    add("--deaths", type=float, default=0.0, help="chance of a death with every batch that is written")
    add("--stragglers", type=float, default=0.0, help="share of the Gemma actors that are slow")
    add("--late", type=float, default=0.0, help="share of a run's new Gemma nodes that join late")
    add("--seed", type=int, default=0)
    add("--folder", type=Path, help="where the records lie for a while, instead of the system's own")
    add("--json", type=Path, help="a file that gets the report, too")
    return parser.parse_args()


@dataclass
class Run:
    """What a run came to: seconds, bytes and counts."""

    gemma_actors: int
    encoders: int
    nodes: int
    batches: int
    questions: int
    bytes: int
    wall: float
    ideal: float
    """Questions per second of all Gemma actors, if nothing ever made them wait."""
    cpu: float
    """Of the driver's thread, all in all."""
    write_cpu: float
    """Of the thread that writes, in the journal, from the pieces of a record to the disk."""
    ray_cpu: float
    """Of the driver's thread, in `ray.wait` and `ray.get`."""
    other_threads_cpu: float
    """Of all others in the driver's process: the one that hashes, and Ray's own."""
    raylet_cpu: float
    """Of the raylet beside the driver, which fetches objects."""
    disk_wait: float
    """Of the thread that writes, until what it wrote is on the disk."""
    writer_wait: float
    """Of the driver's thread, until the batch before is on the disk."""
    fetch_wait: float
    idle: float
    """In `ray.wait`: there was nothing to do."""
    head_of_line_mean: float
    """Between a batch's last block and the last block of the batches before it."""
    head_of_line_max: float
    memory: int
    """Largest private memory of the driver; the object store, which is mapped, is not in it."""
    deaths: int
    actors_lost: int
    plain_write: float
    """For as many bytes in pieces of a record's size to the same file system, until they are on the disk: the limit."""

    @property
    def derived(self) -> float:
        """Questions per second by the CPU time alone of the driver's two threads, which work side by side."""
        return self.questions / max(self.cpu, self.write_cpu)

    @property
    def derived_with_waits(self) -> float:
        return self.questions / max(self.cpu + self.fetch_wait, self.write_cpu + self.disk_wait)


def simulate(n_actors: int, options: argparse.Namespace, nodes: "Nodes", folder: Path) -> Run:
    """Runs a job over `n_actors` Gemma actors to its end and checks its file."""
    nodes.grow(n_actors + -(-n_actors // 8), options.late)  # `place` gives the encoders a ninth of the GPUs
    job, features = make_job(n_actors, options, cluster.usable_nodes(), folder)
    pickled, log, path = folder / "features.pickle", folder / f"{n_actors}.log", folder / f"{n_actors}.jsonl"
    pickled.write_bytes(pickle.dumps(features))
    rate = options.questions_per_second_per_gpu
    encoder_rate = rate * n_actors / job.placement.encoders_per_block / ENCODER_LOAD
    gemma = Hosts(GemmaHost, options.gpus_per_node, rate, options.stragglers, options.seed)
    encoders = Hosts(EncoderHost, options.gpus_per_node, encoder_rate, pickled, log)
    gemma.start(seat.node.identity for seat in job.placement.seats if seat.node and seat.block is None)
    encoders.start(seat.node.identity for seat in job.placement.seats if seat.node and seat.block is not None)
    driver, raylet, memory = psutil.Process(), nodes.head_raylet(), 0
    dice, deaths, lost = random.Random(options.seed), 0, 0
    with open_journal(path, *manifest(job), overwrite=False) as file, Clock() as clock:
        crew = Crew(job, note, gemma, encoders)
        before = [time.monotonic(), time.thread_time(), time.process_time(), cpu_of(raylet)]
        with patch.object(file, "append", clock.timed("write", file.append)), WriteBehind(file) as writer:
            for batch in Driver(job, range(len(job.plan)), note, crew=crew).results(lambda: False):
                with clock.timing("append"):
                    writer.append([line.pieces for line in batch.lines])
                with clock.timing("disturb"):  # which is no work of a driver's
                    if file.lines >= LATE * job.n_questions:
                        nodes.let_late_nodes_join()
                    if dice.random() < options.deaths:
                        deaths += 1
                        lost += dice.choice([gemma, encoders]).kill_one(dice)
                memory = max(memory, private_memory(driver))
        after = [time.monotonic(), time.thread_time(), time.process_time(), cpu_of(raylet)]
        gemma.end()
        encoders.end()
    wall, cpu, all_threads, raylet_cpu = (now - then for now, then in zip(after, before, strict=True))
    cpu, all_threads = cpu - clock.cpu["disturb"], all_threads - clock.cpu["disturb"]
    wall -= clock.cpu["disturb"] + clock.wait["disturb"]
    check(path, job, features)
    plain_write = seconds_to_write(path.with_suffix(".copy"), path.stat().st_size)
    mean, longest = head_of_line(log, len(job.plan))
    size = path.stat().st_size
    path.unlink()
    return Run(
        n_actors,
        len(crew.encoders),
        len(nodes),
        len(job.plan),
        job.n_questions,
        size,
        wall,
        n_actors * rate,
        cpu,
        clock.cpu["write"],
        clock.cpu["get"] + clock.cpu["wait"],
        all_threads - cpu - clock.cpu["write"],
        raylet_cpu,
        clock.wait["write"],
        clock.wait["append"],
        clock.wait["get"],
        clock.wait["wait"],
        mean,
        longest,
        memory,
        deaths,
        lost,
        plain_write,
    )


def note(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


# The job: real questions, plan and placement of a made-up data set and model.


def make_job(n_actors: int, options: argparse.Namespace, nodes: list[Node], folder: Path) -> tuple[Job, Features]:
    """A job for so many Gemma actors, and the features that its encoders return."""
    needs = Needs(2 * PARAMETERS, dict.fromkeys(range(N_LAYERS), 4 * D_MODEL * D_SAE), D_MODEL)
    questions = folder / "questions.jsonl"
    config = Config(
        dataset=str(questions), num_samples="all", device="cuda", gemma_actors=n_actors, top_k=options.top_k
    )
    crew = settle_crew(config, nodes, D_MODEL)
    placement = place(crew, nodes, needs)

    dice = np.random.default_rng(options.seed)
    bytes_per_question = make_features(range(N_LAYERS), 2, options.top_k, dice).json.size
    work = int(options.questions_per_second_per_gpu * n_actors * options.seconds)
    write_questions(questions, max(1, min(work, int(options.gigabytes * 1e9) // bytes_per_question)), dice)
    selection, _ = select_questions(config.dataset)
    plan = make_plan(selection, StubTokenizer(), options.batch_tokens)  # type: ignore[arg-type]

    rows = 2 * int(np.diff(plan.starts).max())
    features = {layers: make_features(layers, rows, options.top_k, dice) for layers in placement.blocks}
    saes = tuple(SaeChoice(layer, "16k", options.top_k, "", None) for layer in range(N_LAYERS))
    nowhere = Repository("simulated", None, {})
    job = Job(
        standin=False,
        model=nowhere,
        spec=GemmaSpec(N_LAYERS, D_MODEL, 9216, 8, 256_000, 8192, PARAMETERS, 2, ()),
        sae_repository=nowhere,
        saes=saes,
        sae_l0="canonical",
        d_sae=D_SAE,
        selection=selection,
        seed=0,
        shard=(1, 1),
        plan=plan,
        numerics=Numerics("bfloat16", "float32", options.batch_tokens, None, options.top_k),
        crew=crew,
        needs=needs,
        placement=placement,
        patience=config.patience,
        output=Output(folder / "records.jsonl", None, "", overwrite=False, retry_errors=False),
        software=dict(probe().software),
        warnings=(),
    )
    return job, features


def write_questions(path: Path, n: int, dice: np.random.Generator) -> None:
    """Questions as long as PIQA's: 48 words, which count as tokens, on average and 20 at least."""
    letters = list(string.ascii_lowercase)
    words = ["".join(dice.choice(letters, 4)) for _ in range(2000)]
    with path.open("wb") as file:
        for n_words, start, label in zip(
            (20 + dice.gamma(1.5, 19, n)).astype(int).tolist(),
            dice.integers(0, 1000, n).tolist(),
            dice.integers(0, 2, n).tolist(),
            strict=True,
        ):
            text = words[start : start + min(n_words, 1000)]
            goal, sol1, sol2 = text[: n_words // 5], text[n_words // 5 :: 2], text[n_words // 5 + 1 :: 2]
            row = {"goal": " ".join(goal), "sol1": " ".join(sol1), "sol2": " ".join(sol2), "label": label}
            file.write(orjson.dumps(row) + b"\n")


class StubTokenizer:
    """A word is a token."""

    def pairs(self, questions: Iterable[Question]) -> Iterator[Pair]:
        for question in questions:
            prompt, first, second = (len(text.split()) for text in (question.goal, question.sol1, question.sol2))
            yield Pair((0,) * (prompt + first + second), prompt, (prompt + first, prompt + second), prompt)


def make_features(layers: Iterable[int], rows: int, k: int, dice: np.random.Generator) -> LayerBlock:
    """Random features, k in every list."""

    def top_k() -> SimpleNamespace:
        activations = -np.sort(-dice.lognormal(2, 1, (rows, k)).astype(np.float32), axis=1)
        counts = dice.integers(k, 2 * k, rows)
        ids = (dice.integers(0, D_SAE, (rows, 1)) + 7 * np.arange(k)).ravel() % D_SAE  # none twice in a row
        return SimpleNamespace(
            feature_ids=ids, activations=activations.ravel(), starts=np.arange(rows + 1) * k, active_counts=counts
        )

    layers = list(layers)
    return serialise_block(layers, [top_k() for _ in layers])  # type: ignore[misc]


def first_rows(block: LayerBlock, rows: int) -> LayerBlock:
    offsets = block.offsets[: 2 * rows + 1]
    return LayerBlock(block.json[: offsets[-1]], offsets, block.active_counts[:, :rows], block.failed_layers[:rows])


def make_frame(question: Question, index: int) -> Frame:
    """The frame of the question that is so many-th in its batch."""
    dice = random.Random(question.example_id)
    scores = [SolutionScore(-dice.expovariate(0.02), len(t.split()), "▁") for t in (question.sol1, question.sol2)]
    return frame_record(question, (scores[0], scores[1]), (2 * index, 2 * index + 1))


def manifest(job: Job) -> tuple[Identity, About]:
    """Of this job, as far as `verify` asks; no file of it was ever there."""
    layers, anything = [sae.layer for sae in job.saes], "simulated"
    words = ("prompt", "layers", "sae_width", "sae_l0", "dtype", "sae_dtype", "attention")
    settings = Settings(
        strip_solutions=False,
        num_samples=job.n_questions,
        shard=None,
        seed=None,
        top_k=job.numerics.top_k or "all",
        batch_tokens=0,
        threads=None,
        **dict.fromkeys(words, anything),
    )
    saes = {layer: SaeFile(path=anything, sha256=anything) for layer in layers}
    identity = Identity(
        settings=settings,
        model=ModelFiles(repository=anything, commit=None, files={}),
        saes=SaeFiles(repository=anything, commit=None, layers=saes),
        questions={"dataset": anything},
        plan=PlanSize(questions=job.n_questions, batches=len(job.plan), sha256=job.plan.digest),
        software={},
        hardware=anything,
    )
    about = About(
        command=anything,
        folder=anything,
        order=" ".join(map(str, job.plan.order.tolist())),
        standin=False,
        neuronpedia=dict.fromkeys(layers),
        average_l0={sae.layer: sae.l0 for sae in job.saes},
        d_model=job.spec.d_model,
        d_sae=D_SAE,
        tokens=Tokens(shared=job.plan.shared_tokens, unshared=job.plan.unshared_tokens),
    )
    return identity, about


# The actors.


class Host:
    """The process of a node's actors of one kind. An actor is a number here, with a queue of its own."""

    def __init__(self) -> None:
        self._arrival = Arrival(probe(), ray.get_runtime_context().get_node_id(), os.getpid())
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

    async def load(self, _actor: int, _repository: Any, _spec: Any, blocks: Any, _settings: Any) -> None:
        self._n_blocks = len(blocks)

    async def score(self, actor: int, _batch: int, questions: list[Question]) -> tuple[Any, ...]:
        slow = random.Random(f"{self._seed} {actor}").random() < self._stragglers
        span = await self._compute(actor, len(questions) / self._rate * (STRAGGLER if slow else 1))
        outcomes = [make_frame(question, index) for index, question in enumerate(questions)]
        activations = np.zeros(ACTIVATION_BYTES // 8, np.int64)
        activations[0] = len(questions)
        return (Scores(list(outcomes), False, 48 * len(questions), span), *[activations] * self._n_blocks)


@ray.remote(num_cpus=0, max_restarts=-1)
class EncoderHost(Host):
    def __init__(self, rate: float, features: Path, log: Path) -> None:
        """Args:
        features: pickled.
        log: gets a line for every block: its batch, and when it was done.
        """
        super().__init__()
        self._rate, self._log = rate, log
        self._features: Features = pickle.loads(features.read_bytes())
        self._layers: dict[int, tuple[int, ...]] = {}

    async def load(self, actor: int, _repository: Any, saes: list[SaeChoice], _d_model: int, _settings: Any) -> None:
        self._layers[actor] = tuple(sae.layer for sae in saes)

    async def encode(self, actor: int, batch: int, activations: Any, _k: int | None) -> Encoded:
        n_questions = int(activations[0])
        span = await self._compute(actor, n_questions / self._rate)
        with self._log.open("a", encoding="ascii") as log:
            log.write(f"{batch} {span.end}\n")
        return Encoded(first_rows(self._features[self._layers[actor]], 2 * n_questions), span)


class Hosts:
    """Stands where the crew expects an actor class: its actors are numbers in the process of their node."""

    def __init__(self, host_class: Any, per_waiting: int, *arguments: Any) -> None:
        self._class, self._per_waiting, self._arguments = host_class, per_waiting, arguments
        self._on: dict[str, Any] = {}  # by Ray's id of the node
        self._waiting: list[tuple[Any, set[int]]] = []  # for a node that joins late, and who is there
        self._numbers = count()
        self._node: str | None = None
        self.actors: dict[int, Any] = {}
        """The host of every actor that was not sent away."""

    def start(self, nodes: Iterable[str]) -> None:
        """Starts the processes of some nodes and waits for them."""
        ray.get([self._host_on(node).begin.remote(-1) for node in set(nodes)])

    def options(self, scheduling_strategy: Any = None, **_: Any) -> "Hosts":
        self._node = scheduling_strategy.node_id if scheduling_strategy else None
        return self

    def remote(self) -> "Actor":
        number = next(self._numbers)
        self.actors[number] = self._host_on(self._node) if self._node else self._waiting_host(number)
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


# The cluster.


@contextmanager
def simulated_cluster(options: argparse.Namespace, store: int, folder: Path) -> Iterator["Nodes"]:
    """A Ray cluster on this machine, as yet without nodes to work on, joined by this process."""
    smi = folder / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        "#!/bin/sh\n" + "".join(f"echo {i}, GPU-{i}, simulated, 81920\n" for i in range(options.gpus_per_node))
    )
    smi.chmod(0o755)
    os.environ["PATH"] = f"{smi.parent}:{os.environ['PATH']}"
    # An actor that asks for no GPU sees what is there: nothing here asks for one.
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
    if options.one_node:
        head |= {"num_cpus": 1, "num_gpus": options.gpus_per_node}
    ray_cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=ray_cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield Nodes(ray_cluster, options.gpus_per_node, store, int(options.one_node))
    finally:
        ray.shutdown()
        ray_cluster.shutdown()


class Nodes:
    """The nodes of the cluster with GPUs; more are added from run to run."""

    def __init__(self, ray_cluster: Cluster, gpus: int, store: int, n: int) -> None:
        self._cluster, self._gpus, self._store = ray_cluster, gpus, store
        self._n, self._n_late = n, 0

    def __len__(self) -> int:
        return self._n

    def grow(self, gpus: int, late: float) -> None:
        """Adds nodes until there are so many GPUs, but for a share of the new nodes, which is to join late."""
        new = max(0, -(-gpus // self._gpus) - self._n)
        self._n_late = min(round(late * new), self._n + new - 1)
        self._add(new - self._n_late)
        self._cluster.wait_for_nodes()

    def let_late_nodes_join(self) -> None:
        self._add(self._n_late, resources={"late": 1})
        self._n_late = 0

    def head_raylet(self) -> psutil.Process:
        (raylet,) = self._cluster.head_node.all_processes["raylet"]
        return psutil.Process(raylet.process.pid)

    def _add(self, n: int, **options: Any) -> None:
        for _ in range(n):
            self._cluster.add_node(
                wait=False, num_cpus=1, num_gpus=self._gpus, object_store_memory=self._store, **options
            )
        self._n += n


# What is measured.


class Clock:
    """CPU seconds, and seconds without CPU, of the calling thread in `ray.get`, `ray.wait` and whatever is timed."""

    def __init__(self) -> None:
        self.cpu, self.wait = Counter[str](), Counter[str]()
        replacements = {name: self.timed(name, getattr(ray, name)) for name in ("get", "wait")}
        replacements["kill"] = partial(kill, ray.kill)
        self._patches = [patch.object(ray, name, function) for name, function in replacements.items()]

    def __enter__(self) -> "Clock":
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - cpu
            self.cpu[name] += spent  # type: ignore[assignment]
            self.wait[name] += time.monotonic() - wall - spent  # type: ignore[assignment]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.timing(name):
                return function(*arguments, **options)

        return timed


def kill(kill_process: Callable[[Any], None], actor: Any) -> None:
    """What `ray.kill` does to an actor that is a number: its process is that of other actors too."""
    if isinstance(actor, Actor):
        actor.hosts.dismiss(actor.number)
    else:
        kill_process(actor)


def cpu_of(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def private_memory(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def check(path: Path, job: Job, features: Features) -> None:
    """Compares every line with what the plain functions give: count, order and bytes."""
    lines = read_lines(path)
    for batch in range(len(job.plan)):
        questions = [job.selection[int(example_id)] for example_id in job.plan.batch(batch)]
        blocks = [first_rows(block, 2 * len(questions)) for block in features.values()]
        for index, question in enumerate(questions):
            if next(lines, None) != b"".join(join_record(make_frame(question, index), blocks)):
                raise SystemExit(f"{path}: the line of question {question.example_id} is not what it should be")
    if next(lines, None) is not None:
        raise SystemExit(f"{path} goes on behind the last question")


def seconds_to_write(path: Path, size: int) -> float:
    """How long it takes to write so many bytes; beside the records, for memory never used before is slower to fill."""
    piece = os.urandom(RECORD_BYTES)
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(max(1, size // len(piece))):
            file.write(piece)
        os.fdatasync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def head_of_line(log: Path, n_batches: int) -> tuple[float, float]:
    """Mean and longest time that a finished batch waits for an earlier one."""
    end_of = {int(line.split()[0]): float(line.split()[1]) for line in log.read_text(encoding="ascii").splitlines()}
    ends = np.array([end_of[batch] for batch in range(n_batches)])
    waits = np.maximum.accumulate(ends) - ends
    return float(waits.mean()), float(waits.max())


def table(runs: list[Run], rate: float) -> str:
    """Runs side by side, a line for every figure; `rate` is a GPU's, in questions per second."""

    def per_question(seconds: Callable[[Run], float]) -> Callable[[Run], str]:
        return lambda run: f"{1e6 * seconds(run) / run.questions:,.0f}"

    figures: list[tuple[str, Callable[[Run], str]]] = [
        ("Gemma actors", lambda run: f"{run.gemma_actors}"),
        ("encoders / nodes", lambda run: f"{run.encoders} / {run.nodes}"),
        ("questions / batches", lambda run: f"{run.questions:,} / {run.batches:,}"),
        ("ideal questions/s", lambda run: f"{run.ideal:,.0f}"),
        ("measured questions/s", lambda run: f"{run.questions / run.wall:,.0f}"),
        ("  of the ideal", lambda run: f"{run.questions / run.wall / run.ideal:.1%}"),
        ("  MB/s written", lambda run: f"{run.bytes / run.wall / 1e6:,.0f}"),
        ("  MB/s of plain writing", lambda run: f"{run.bytes / run.plain_write / 1e6:,.0f}"),
        ("driver's thread: CPU share", lambda run: f"{run.cpu / run.wall:.0%}"),
        ("  us CPU a question", per_question(lambda run: run.cpu)),
        ("    in ray.get, ray.wait", per_question(lambda run: run.ray_cpu)),
        ("  us waiting for objects", per_question(lambda run: run.fetch_wait)),
        ("  us waiting for the writer", per_question(lambda run: run.writer_wait)),
        ("  nothing to do", lambda run: f"{run.idle / run.wall:.0%}"),
        ("writer's thread, us CPU", per_question(lambda run: run.write_cpu)),
        ("  us waiting for the disk", per_question(lambda run: run.disk_wait)),
        ("hashing, Ray's threads, us", per_question(lambda run: run.other_threads_cpu)),
        ("head node's raylet, us", per_question(lambda run: run.raylet_cpu)),
        ("driver's memory, MiB", lambda run: f"{run.memory / (1 << 20):,.0f}"),
        ("head of line, s: mean / max", lambda run: f"{run.head_of_line_mean:.2f} / {run.head_of_line_max:.2f}"),
        ("deaths / actors lost", lambda run: f"{run.deaths} / {run.actors_lost}"),
        ("derived questions/s: CPU", lambda run: f"{run.derived:,.0f}"),
        ("  and waits", lambda run: f"{run.derived_with_waits:,.0f}"),
        ("  feeds so many GPUs", lambda run: f"{run.derived_with_waits / rate:,.1f} to {run.derived / rate:,.1f}"),
    ]
    lines = [f"{name:<28}" + "".join(f"{figure(run):>17}" for run in runs) for name, figure in figures]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
