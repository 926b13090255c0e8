#!/usr/bin/env python3
"""Runs a job again and again while its processes are killed at random, and compares every byte.

    scripts/soak.py --minutes 20 [--seed 0] [--form .jsonl.zst] [--writers 3] [--nodes 3] [--ablate=--top=3]
        [-- OPTIONS OF layerscope run]

Each round runs one job to its end: once it has written some more, or after some seconds, one or several of its
processes are killed with SIGKILL: actors, or the driver, which is started again, with another number of actors, blocks
and encoders each time. After each death of the driver its files, residuals too, must be byte-prefixes of an undisturbed
run's; at the end of a round they must be the same, and `verify` must pass. With --writers the run is of so many parts,
each of which must be a prefix of an undisturbed one; the driver is their head then, and writers are killed too. With
--nodes the runs join a local cluster of so many raylets beside the head's; any of them is killed, and another takes its
place. Without, each run has a Ray of its own, whose raylet or control store is killed, of which the run must end. With
--ablate it is an ablation of an undisturbed run that is soaked.
"""

import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from soaking.job import Job, difference, size
from soaking.killing import Killer
from soaking.nodes import local_cluster

# Actors step back behind nobody, and no Python is started before anybody asks for one: our actors have an environment.
RAY = {"RAY_worker_niceness": "0", "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
RAY |= {"RAY_worker_register_timeout_seconds": "600"}  # on a busy machine Ray kills what has not begun after a minute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", default=".jsonl", help="how the output's name ends")
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--ablate", default="", help="options of layerscope ablate")
    parser.add_argument("options", nargs="*", default=[], help="of layerscope run, behind --")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="layerscope-soak-") as folder,
        # Short, as a socket's path must be; and nobody joins it by mistake.
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray_folder,
        patch.dict(os.environ, {**RAY, "RAY_TMPDIR": ray_folder}),
        ExitStack() as stack,
    ):
        nodes = stack.enter_context(local_cluster(arguments.nodes)) if arguments.nodes else None
        address = ["--address", nodes.address if nodes else "local"]
        job = make_job(arguments, Path(folder), address)
        killer = Killer(random.Random(arguments.seed), nodes, Counter())
        soak(job, Path(folder), arguments.minutes * 60, killer)


def make_job(arguments: argparse.Namespace, folder: Path, address: list[str]) -> Job:
    options = arguments.options or ["--standin", "--num-samples", "all", "--batch-tokens", "80"]
    run = Job(["run", *options, *address, "--writers", str(arguments.writers)], arguments.form)
    if not arguments.ablate:
        return run
    finish(run, folder / f"run{run.form}")
    return Job(["ablate", str(folder / f"run{run.form}"), *shlex.split(arguments.ablate), *address], ".jsonl")


def finish(job: Job, output: Path) -> None:
    """Runs a job that nothing disturbs."""
    run = job.start(output, [])
    check(run.process.wait() == 0, f"the undisturbed run ended with {run.process.returncode}; it said: {run.said()}")


def soak(job: Job, folder: Path, seconds: float, killer: Killer) -> None:
    undisturbed, output = folder / f"undisturbed{job.form}", folder / "soaked" / f"x{job.form}"
    output.parent.mkdir()
    finish(job, undisturbed)
    whole, counts, started = size(undisturbed), killer.counts, time.monotonic()

    def compare(finished: bool) -> None:
        differs = difference(output, undisturbed, finished, counts)
        check(not differs, differs)

    while time.monotonic() - started < seconds:
        while not killer.attack(job.start(output, job.spread(killer.dice)), lambda: size(output), whole):
            compare(finished=False)
            tell(counts, started)
        compare(finished=True)
        verified = subprocess.run([sys.executable, "-m", "layerscope", "verify", str(output)], check=False)
        check(verified.returncode == 0, "verify refused the finished file")
        counts["jobs finished"] += 1
        tell(counts, started)
        shutil.rmtree(output.parent)
        output.parent.mkdir()


def tell(counts: Counter[str], started: float) -> None:
    told = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
    print(f"{(time.monotonic() - started) / 60:.1f} min: {told}; 0 bytes differ", flush=True)


def check(good: bool, what: str) -> None:
    if not good:
        sys.exit(f"soak: {what}")


if __name__ == "__main__":
    main()
