#!/usr/bin/env python3
"""Measures one driver, or writers, under a cluster of many GPUs that are not there: how many of them can they serve?

    scripts/simulate_cluster.py [--actors 1 8 64 256] [--writers 1 2 16 64] [--deaths 0.02] [--stragglers 0.05]
        [--late 0.25] [--slow-disk 0.2] [--json FILE]

Real: the driver, or the head and the writers, each a process of its own; the crew, `place`, the plan, the bytes of the
records (`records/line/lines.py`), the journal with its syncs, and Ray: a head node for the driver and a node (raylet,
object store, agents) for every `--gpus-per-node` GPUs, with every byte of a record carried between them.

With `--compressed` the records are zstd frames. They are made before the clock starts, as scores are, because two cores
that compress are what would be measured; the actors return them at once.

Simulated: a node has as many GPUs as Ray was told. The Gemma actors of a node are one process, and so are its encoders,
because 256 processes do not fit a small machine; in it each answers one call after the other and sleeps as long as its
GPU would compute. The features of one batch are made, and returned for every batch. Encoders keep up with the Gemma
actors, with a fifth to spare. Activations are of 128 KiB, enough to travel by reference as real ones do; the driver
touches neither.
A death is a SIGKILL of such a process, with all actors in it, and Ray starts the process again; every third one is that
of a writer, if there are several, and the head starts another. A straggler works at a third of the speed. Late nodes
join when a quarter of the questions is written.

Every line of the file is compared with what the plain functions give for its place in the plan.

A small machine runs out of cores long before the driver does, so two figures are told apart. Measured is what came
out. Derived is 1 / (what a question costs the busier of the driver's two threads, the one that drives and the one that
writes), as if each had a core of its own: its CPU time alone, or with its waits for objects or for the disk.

How fast a GPU is (`--questions-per-second-per-gpu`): Gemma-2-2B has 2.0e9 parameters beside the embedding, and a
question 48 tokens with shared prefixes: 2 x 2.0e9 x 48 = 1.9e11 FLOP. The output projection at about 34 positions:
2 x 256,000 x 2,304 x 34 = 0.4e11. Half of an H100's 800 TFLOP/s in bfloat16: 4e14 / 2.3e11 = 1,700 a second.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

from simulation.nodes import simulated_cluster
from simulation.options import parse
from simulation.result import table
from simulation.running import note, simulate

from layerscope.formatting import count_of


def main() -> None:
    options = parse(str(__doc__))
    store = int(1e6 * (options.store_megabytes or 4000 * min(1, options.gigabytes) + 100))  # drivers fill a third
    with (
        tempfile.TemporaryDirectory(prefix="layerscope-simulation-", dir=options.folder) as folder,
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray_folder,  # a socket's path must be short
        patch.dict(os.environ, RAY_TMPDIR=ray_folder),  # so that nobody joins it by mistake
        simulated_cluster(options, store) as nodes,
    ):
        runs = []
        writers = options.writers * (len(options.actors) // len(options.writers))
        for n_actors, n_writers in sorted(zip(options.actors, writers, strict=True)):
            print(f"{n_actors} Gemma actors, {count_of(n_writers, 'writer')} …", file=sys.stderr, flush=True)
            runs.append(simulate(n_actors, n_writers, options, nodes, Path(folder)))
            note(f"{runs[-1].questions / runs[-1].wall:,.0f} questions/s")
    print(table(runs, options.questions_per_second_per_gpu))
    if options.json:
        report = {"options": vars(options), "cpus": len(os.sched_getaffinity(0)), "runs": list(map(asdict, runs))}
        options.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
