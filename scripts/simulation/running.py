"""One run of the simulation: the real driver and crew over simulated actors, disturbed and measured."""

import argparse
import pickle
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

import psutil

from layerscope.engine.budget import Budget
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.lines import BatchLines
from layerscope.planning.job import Job
from layerscope.records.journal import Journal, open_journal
from layerscope.records.write_behind import WriteBehind
from simulation.actors import EncoderHost, GemmaHost, Hosts
from simulation.checking import check
from simulation.engine import SimulatedEngine
from simulation.measuring import Clock, cpu_of, head_of_line, private_memory, seconds_to_write
from simulation.nodes import Nodes, SimulatedGpus
from simulation.result import Run
from simulation.workload import Features, make_job, manifest, packed_batches

ENCODER_LOAD = 0.8
LATE = 0.25  # of the questions are written when late nodes join
PROBE_SECONDS = 60.0


def note(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def simulate(n_actors: int, options: argparse.Namespace, nodes: Nodes, folder: Path) -> Run:
    """Runs a job over `n_actors` Gemma actors to its end and checks its file."""
    nodes.grow(n_actors + -(-n_actors // 8), options.late)  # `place` gives the encoders a ninth of the GPUs
    known = SimulatedGpus(note)
    job, features = make_job(n_actors, options, known.usable(PROBE_SECONDS), folder)
    log, path = folder / f"{n_actors}.log", folder / f"{n_actors}{''.join(job.output.records.suffixes)}"
    gemma, encoders = start_actors(job, features, options, log)
    clock = Clock()
    engine = SimulatedEngine(known, gemma, encoders, clock)
    disturbance = Disturbance(options, nodes, [gemma, encoders])
    with open_journal(path, *manifest(job), overwrite=False) as file:
        crew = Crew(job, engine, note)
        before = readings(nodes)
        budget = Budget(job, engine.object_store_bytes())
        memory = write(
            file, clock, disturbance, job, Driver(job, range(len(job.plan)), crew, budget, note).results(lambda: False)
        )
        after = readings(nodes)
        n_encoders = len(crew.encoders)
        gemma.end()
        encoders.end()
    wall, cpu, all_threads, raylet_cpu = (now - then for now, then in zip(after, before, strict=True))
    cpu, all_threads = cpu - clock.cpu["disturb"], all_threads - clock.cpu["disturb"]
    check(path, job, features)
    mean, longest = head_of_line(log, len(job.plan))
    size = path.stat().st_size
    plain_write = seconds_to_write(path.with_suffix(".copy"), size)
    path.unlink()
    return Run(
        gemma_actors=n_actors,
        encoders=n_encoders,
        nodes=len(nodes),
        batches=len(job.plan),
        questions=job.n_questions,
        bytes=size,
        wall=wall - clock.cpu["disturb"] - clock.wait["disturb"],
        ideal=n_actors * options.questions_per_second_per_gpu,
        cpu=cpu,
        write_cpu=clock.cpu["write"],
        ray_cpu=clock.cpu["get"] + clock.cpu["wait"],
        other_threads_cpu=all_threads - cpu - clock.cpu["write"],
        raylet_cpu=raylet_cpu,
        disk_wait=clock.wait["write"],
        writer_wait=clock.wait["append"],
        fetch_wait=clock.wait["get"],
        idle=clock.wait["wait"],
        head_of_line_mean=mean,
        head_of_line_max=longest,
        memory=memory,
        deaths=disturbance.deaths,
        actors_lost=disturbance.lost,
        plain_write=plain_write,
    )


def start_actors(job: Job, features: Features, options: argparse.Namespace, log: Path) -> tuple[Hosts, Hosts]:
    """The processes of both kinds of actor, on their nodes."""
    pickled, packed = log.with_name("features.pickle"), log.with_name("packed.pickle")
    pickled.write_bytes(pickle.dumps(features))
    packed.write_bytes(pickle.dumps(packed_batches(job, features)))
    rate = options.questions_per_second_per_gpu
    encoder_rate = rate * job.placement.gemma_actors / job.placement.encoders_per_block / ENCODER_LOAD
    gemma = Hosts(GemmaHost, options.gpus_per_node, rate, options.stragglers, options.seed)
    encoders = Hosts(EncoderHost, options.gpus_per_node, encoder_rate, pickled, packed, log)
    gemma.start(seat.node.identity for seat in job.placement.seats if seat.node and seat.block is None)
    encoders.start(seat.node.identity for seat in job.placement.seats if seat.node and seat.block is not None)
    return gemma, encoders


class Disturbance:
    """Nodes that join late and processes that die, in between."""

    def __init__(self, options: argparse.Namespace, nodes: Nodes, hosts: list[Hosts]) -> None:
        self._chance, self._nodes, self._hosts = options.deaths, nodes, hosts
        self._dice = random.Random(options.seed)
        self.deaths = self.lost = 0

    def happen(self, written: float) -> None:
        """Args:
        written: share of the questions.
        """
        if written >= LATE:
            self._nodes.let_late_nodes_join()
        if self._dice.random() < self._chance:
            self.deaths += 1
            self.lost += self._dice.choice(self._hosts).kill_one(self._dice)


def write(file: Journal, clock: Clock, disturbance: Disturbance, job: Job, batches: Iterable[BatchLines]) -> int:
    """Writes batch after batch; the largest private memory of the driver meanwhile."""
    process, memory = psutil.Process(), 0
    with patch.object(file, "append", clock.timed("write", file.append)), WriteBehind(file) as writer:
        for batch in batches:
            with clock.timing("append"):
                writer.append(batch.to_append(0))
            with clock.timing("disturb"):  # which is no work of a driver's
                disturbance.happen(file.lines / job.n_questions)
            memory = max(memory, private_memory(process))
    return memory


def readings(nodes: Nodes) -> list[float]:
    """Wall time, this thread's CPU time, this process's, and the CPU time of the raylet beside it."""
    return [time.monotonic(), time.thread_time(), time.process_time(), cpu_of(nodes.head_raylet())]
