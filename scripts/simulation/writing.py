"""Runs of several writers: the real head and the real writers, whose actors are simulated, killed now and then."""

import argparse
import json
import os
import pickle
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.engine.cluster.ray_engine import RayEngine
from layerscope.engine.interface import Handle, Reference
from layerscope.engine.writers.posts import Part, Posts
from layerscope.engine.writers.writer import Outcome, Task
from layerscope.engine.writers.writer_actor import ShareEngine, WriterProcess
from layerscope.engine.writers.writers import ToWrite, Writers
from layerscope.planning.job import Job
from layerscope.planning.shares import Share, part_of
from layerscope.records.reading.parts import as_it_lies, held
from layerscope.records.totals import Totals
from simulation.actors import Hosts, Kind
from simulation.engine import SimulatedShareEngine
from simulation.measuring import Clock, Driving, driving
from simulation.nodes import SimulatedGpus
from simulation.workload import manifest

_CALLS_AT_ONCE = 4


@dataclass
class Head:
    """What the head of several writers came to."""

    cpu: float = 0.0
    """Seconds, of its whole process."""
    bytes: int = 0
    """Of what it was answered, pickled."""


class Disturbing(Protocol):
    def happen(self, written: float, kill_a_writer: Any) -> None: ...


@ray.remote(num_cpus=0, max_concurrency=_CALLS_AT_ONCE)
class SimulatedWriter(WriterProcess):
    """A writer whose actors are simulated.

    Args:
        batches: of the whole plan.
        log: gets a line when it is done: what it measured.
        slow_disk: see `driving`.
    """

    def __init__(self, kinds: tuple[Kind, Kind], batches: int, log: Path, slow_disk: float) -> None:
        super().__init__()
        self._kinds, self._batches, self._log, self._slow_disk = kinds, batches, log, slow_disk
        self._clock, self._first = Clock(), 0

    def engine_of(self, share: Share) -> ShareEngine:
        gemma, encoders = (Hosts(kind, self._first) for kind in self._kinds)
        return SimulatedShareEngine(share, gemma, encoders, self._clock)

    def run(self, task: Task, share: Share) -> Outcome:
        number, count = task.job.shard
        self._first, began = self._batches * (number - 1) // count, time.time()
        with driving(self._clock, self._slow_disk) as found:
            outcome = super().run(task, share)
        with self._log.open("a", encoding="ascii") as log:
            log.write(json.dumps({"began": began, "ended": time.time(), "driving": asdict(found)}) + "\n")
        return outcome

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class HeadEngine(RayEngine):
    """The head's: starts writers and counts what they answer."""

    def __init__(self, known: SimulatedGpus) -> None:
        super().__init__(known)
        self.bytes = 0

    def fetch(self, reference: Reference) -> Any:
        answer = super().fetch(reference)
        self.bytes += len(pickle.dumps(answer))
        return answer


class Shown:
    """What a person would see; lets things happen with every batch that was written.

    Args:
        batches: of the whole plan.
    """

    def __init__(self, job: Job, disturbance: Disturbing, posts: Posts) -> None:
        self.totals, self._happened = Totals(), 0
        self._job, self._disturbance, self._posts = job, disturbance, posts

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    def begin(self) -> None:
        pass

    def begin_again(self, questions: int) -> None:
        del questions

    def update(self) -> None:
        written = self.totals.questions / self._job.n_questions
        while self._happened < int(written * len(self._job.plan)):
            self._happened += 1
            self._disturbance.happen(written, self._kill_one)

    def _kill_one(self, dice: random.Random) -> None:
        if at_work := [post for post in self._posts.all if post.writes]:
            dice.choice(at_work).handle.die.remote()


def of_writers(
    job: Job,
    known: SimulatedGpus,
    kinds: tuple[Kind, Kind],
    placed: Sequence[Share],
    disturbance: Disturbing,
    options: argparse.Namespace,
) -> tuple[Driving, Head]:
    """Has several writers write a job, each its part."""
    run, count = job.output.records, len(job.output.parts)
    log = run.with_name("writers.log")
    log.write_bytes(b"")

    def task(number: int, share: Share, again: bool) -> Task:
        own = part_of(job, number, share)
        return Task(own, *manifest(own), again)

    def start(node_id: str) -> Handle:
        on = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=True)} if node_id else {}
        writer: Any = SimulatedWriter
        return writer.options(**on).remote(kinds, len(job.plan), log, options.slow_disk)

    with held(run, count, "simulated"):
        parts = [Part(number, part_of(job, number, placed[0]).n_questions, Totals()) for number in range(1, count + 1)]
        engine = HeadEngine(known)
        posts = Posts(job, placed, engine, print)
        shown = Shown(job, disturbance, posts)
        began = time.process_time()
        to_write = ToWrite(run, as_it_lies(run), parts, task, start)
        Writers(to_write, posts, engine, shown, lambda: False).run()
        head = Head(time.process_time() - began, engine.bytes)
    told = [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]
    found = Driving.of_all([Driving(**each["driving"]) for each in told])
    found.wall = max(each["ended"] for each in told) - min(each["began"] for each in told)
    return found, head
