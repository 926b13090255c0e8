#!/usr/bin/env python3
"""Runs the job again and again while its processes are killed at random, and compares every byte.

    scripts/soak.py --minutes 20 [--seed 0] [--writers 3] [-- OPTIONS OF layerscope run]

Each round runs one job to its end: its driver is killed with SIGKILL every few seconds and started again, its actors
are killed in between, and every start draws another number of actors, blocks and encoders. After each death of the
driver the file must be a byte-prefix of an undisturbed run's; at the end of a round it must be the same, and `verify`
must pass. With --writers the run is of so many parts, each of which must be a prefix of an undisturbed one; the driver
is their head then, and writers are killed too.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

PIECE = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("options", nargs="*", default=[], help="of layerscope run, behind --")
    arguments = parser.parse_args()
    options = arguments.options or ["--standin", "--num-samples", "all", "--batch-tokens", "80"]
    with tempfile.TemporaryDirectory(prefix="layerscope-soak-") as folder:
        options += ["--address", "local", "--writers", str(arguments.writers)]
        soak(Path(folder), options, arguments.writers, arguments.minutes * 60, random.Random(arguments.seed))


def soak(folder: Path, options: list[str], writers: int, seconds: float, dice: random.Random) -> None:
    reference, output = folder / "reference.jsonl", folder / "soaked.jsonl"
    whole, files = (files_of(path, writers) for path in (reference, output))
    pairs = list(zip(files, whole, strict=True))
    undisturbed = command("run", options, reference)
    errors = undisturbed.communicate()[1].decode()
    check(undisturbed.returncode == 0, f"the undisturbed run failed: {errors[-2000:]}")
    counts: Counter[str] = Counter()
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        while not attack(command("run", [*options, *spread(dice)], output), dice, counts):
            for ours, theirs in pairs:
                check(is_prefix(ours, theirs, counts), f"{ours.name} is not a prefix of the undisturbed run's")
        for ours, theirs in pairs:
            check(is_prefix(ours, theirs, counts), f"the finished {ours.name} differs")
            check(ours.stat().st_size == theirs.stat().st_size, f"the finished {ours.name} is too short")
            counts["lines checked"] += ours.read_bytes().count(b"\n")
        verified = subprocess.run([sys.executable, "-m", "layerscope", "verify", str(output)], check=False)
        check(verified.returncode == 0, "verify refused the finished file")
        counts["jobs finished"] += 1
        for path in folder.glob(f"{output.stem}*"):
            path.unlink()
        told = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
        print(f"{(time.monotonic() - started) / 60:.1f} min: {told}; 0 bytes differ", flush=True)


def files_of(output: Path, writers: int) -> list[Path]:
    """The file of a run, or those of its parts."""
    if writers == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{part:05}-of-{writers:05}.jsonl") for part in range(1, writers + 1)]


def command(name: str, options: list[str], output: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "layerscope", name, *options, "--output-file", str(output)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def spread(dice: random.Random) -> list[str]:
    numbers = [str(dice.randint(1, 2)) for _ in range(3)]
    return ["--gemma-actors", numbers[0], "--layer-blocks", numbers[1], "--encoders-per-block", numbers[2]]


def attack(run: subprocess.Popen[bytes], dice: random.Random, counts: Counter[str]) -> bool:
    """Kills actors of a run now and then, and in the end its driver; true if the run was done before."""
    deadline = time.monotonic() + dice.uniform(2, 30)
    while time.monotonic() < deadline:
        try:
            run.wait(dice.uniform(0.5, 4))
        except subprocess.TimeoutExpired:
            if dice.random() < 0.3:
                counts.update(kill_an_actor(run.pid, dice))
            continue
        check(run.returncode == 0, f"the run ended with {run.returncode}: {run.communicate()[1].decode()[-2000:]}")
        return True
    run.kill()
    run.communicate()
    counts["drivers killed"] += 1
    return False


def kill_an_actor(driver: int, dice: random.Random) -> list[str]:
    """Kills an actor or a writer of a run, if it has any; which it was."""
    try:
        below = psutil.Process(driver).children(recursive=True)
        actors = {process: "".join(process.cmdline()) for process in below}
        actors = {process: name for process, name in actors.items() if "Actor" in name}
        if not actors:
            return []
        process = dice.choice(list(actors))
        process.kill()
        return ["writers killed" if "WriterActor" in actors[process] else "actors killed"]
    except psutil.Error:
        return []


def is_prefix(output: Path, reference: Path, counts: Counter[str]) -> bool:
    if not output.exists():
        return True
    with output.open("rb") as ours, reference.open("rb") as theirs:
        while piece := ours.read(PIECE):
            counts["bytes compared"] += len(piece)
            if piece != theirs.read(len(piece)):
                return False
    return True


def check(good: bool, what: str) -> None:
    if not good:
        sys.exit(f"soak: {what}")


if __name__ == "__main__":
    main()
