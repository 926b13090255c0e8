"""One run of the simulation: the real driver, or writers, and crews over simulated actors, disturbed and measured."""

import argparse
import pickle
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from layerscope.engine.batches.lines import BatchLines
from layerscope.engine.budget import Budget
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.planning.job import Job
from layerscope.planning.shares import shares
from layerscope.records.writing.journal import Journal, open_journal
from layerscope.records.writing.write_behind import WriteBehind
from simulation.actors import EncoderHost, GemmaHost, Hosts, Kind
from simulation.answers import write_answers
from simulation.checking import check
from simulation.engine import SimulatedEngine
from simulation.measuring import Clock, Driving, driving, head_of_line, seconds_to_write
from simulation.nodes import Nodes, SimulatedGpus
from simulation.result import Run
from simulation.workload import Features, make_job, manifest
from simulation.writing import Head, of_writers

ENCODER_LOAD = 0.8
LATE = 0.25  # of the questions are written when late nodes join
PROBE_SECONDS = 60.0


def note(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def simulate(n_actors: int, n_writers: int, options: argparse.Namespace, nodes: Nodes, folder: Path) -> Run:
    """Runs a job over `n_actors` Gemma actors to its end and checks its file, or those of its parts."""
    nodes.grow(n_actors + -(-n_actors // 8), options.late)  # `place` gives the encoders a ninth of the GPUs
    known = SimulatedGpus(note)
    there = known.usable(PROBE_SECONDS)
    job, features = make_job(n_actors, n_writers, options, there, folder)
    log = folder / f"{n_actors}-{n_writers}.log"
    kinds = kinds_of_actors(job, features, options, log)
    gemma, encoders = hosts = Hosts(kinds[0]), Hosts(kinds[1])
    disturbance = Disturbance(options, nodes, hosts)
    before, told = nodes.readings(), Head()
    with nodes.watched() as watch:
        if n_writers == 1:
            for kind, of_kind in zip(hosts, (True, False), strict=True):
                kind.start(
                    seat.node.identity for seat in job.placement.seats if seat.node and (seat.block is None) == of_kind
                )
            found, n_encoders = one_driver(job, known, hosts, disturbance, options)
            found.other_threads_cpu -= watch.cpu
        else:
            for kind in hosts:
                kind.start(node.identity for node in there)
            placed = shares(job, there)
            n_encoders = sum(seat.block is not None for share in placed for seat in share.placement.seats)
            found, told = of_writers(job, known, kinds, placed, disturbance, options)
            told.cpu -= watch.cpu
    after = nodes.readings()
    gemma.end()
    encoders.end()
    check(job.output.files, job, features)
    mean, longest = head_of_line(log, len(job.plan), n_writers)
    size = sum(path.stat().st_size for path in job.output.files)
    plain_write = seconds_to_write(folder / "plain", size)
    for path in job.output.files:
        path.unlink()
    return Run(
        **asdict(found),
        gemma_actors=n_actors,
        writers=n_writers,
        encoders=n_encoders,
        nodes=len(nodes),
        batches=len(job.plan),
        bytes=size,
        ideal=n_actors * options.questions_per_second_per_gpu,
        head_cpu=told.cpu,
        head_bytes=told.bytes,
        head_raylet_cpu=after.head_raylet - before.head_raylet,
        raylets_cpu=after.raylets - before.raylets,
        gcs_cpu=after.gcs - before.gcs,
        head_of_line_mean=mean,
        head_of_line_max=longest,
        store_fullest=watch.fullest,
        store_spilled=watch.spilled,
        deaths=disturbance.deaths,
        actors_lost=disturbance.lost,
        plain_write=plain_write,
    )


def one_driver(
    job: Job, known: SimulatedGpus, hosts: tuple[Hosts, Hosts], disturbance: "Disturbance", options: argparse.Namespace
) -> tuple[Driving, int]:
    """Has one driver, in this process, write a job; gives how many encoders it had, too."""
    clock = Clock()
    engine = SimulatedEngine(known, *hosts, clock)
    with (
        open_journal(job.output.records, *manifest(job), overwrite=False) as file,
        driving(clock, options.slow_disk) as found,
    ):
        crew, budget = Crew(job, engine, note), Budget(job, engine.object_store_bytes())
        driver = Driver(job, range(len(job.plan)), crew, budget, note)
        write(file, clock, disturbance, job, driver.results(lambda: False))
        n_encoders = len(crew.encoders)
    return found, n_encoders


def kinds_of_actors(job: Job, features: Features, options: argparse.Namespace, log: Path) -> tuple[Kind, Kind]:
    """Of Gemma's and of encoders: what their processes are made with."""
    pickled, answers = log.with_name("features.pickle"), log.with_suffix(".answers")
    pickled.write_bytes(pickle.dumps(features))
    write_answers(answers, job, features)
    rate = options.questions_per_second_per_gpu
    encoder_rate = rate * job.placement.gemma_actors / job.placement.encoders_per_block / ENCODER_LOAD
    return (
        Kind(f"gemma {log.stem}", GemmaHost, (answers, rate, options.stragglers, options.seed), options.gpus_per_node),
        Kind(f"encoder {log.stem}", EncoderHost, (answers, encoder_rate, pickled, log), options.gpus_per_node),
    )


class Disturbance:
    """Nodes that join late and processes that die, in between."""

    def __init__(self, options: argparse.Namespace, nodes: Nodes, hosts: tuple[Hosts, Hosts]) -> None:
        self._chance, self._nodes, self._hosts = options.deaths, nodes, hosts
        self._dice = random.Random(options.seed)
        self.deaths = self.lost = 0

    def happen(self, written: float, kill_a_writer: Callable[[random.Random], None] | None = None) -> None:
        """With every batch.

        Args:
            written: share of the questions.
            kill_a_writer: one of several; every third death is one's.
        """
        if written >= LATE:
            self._nodes.let_late_nodes_join()
        if self._dice.random() < self._chance:
            self.deaths += 1
            if kill_a_writer is not None and not self._dice.randrange(3):
                kill_a_writer(self._dice)
            else:
                self.lost += self._dice.choice(self._hosts).kill_one(self._dice)


def write(file: Journal, clock: Clock, disturbance: Disturbance, job: Job, batches: Iterable[BatchLines]) -> None:
    """Writes batch after batch."""
    with WriteBehind(file) as writer:
        for batch in batches:
            writer.append(batch.to_append())
            with clock.timing("disturb"):  # which is no work of a driver's
                disturbance.happen(file.lines / job.n_questions)
