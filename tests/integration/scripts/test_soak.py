"""What `scripts/soak.py` compares and kills; the whole of it, on real runs, every night."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from soaking.job import Job, Run, difference, size
from soaking.killing import Killer
from soaking.nodes import local_cluster

from background import titled
from paths import ROOT

SOAK = ROOT / "scripts/soak.py"


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """A job's output of two parts and residuals, undisturbed and soaked."""
    paths = []
    for stem in ("whole", "soaked/x"):
        output = tmp_path / f"{stem}.jsonl"
        residuals = output.with_name(f"{output.stem}-00001-of-00002.residuals")
        residuals.mkdir(parents=True)
        (residuals / "layer_0.npy").write_bytes(bytes(range(200)))
        for part in (1, 2):
            output.with_name(f"{output.stem}-0000{part}-of-00002.jsonl").write_bytes(b'{"line": 1}\n' * 200_000)
        output.with_name(f"{output.name}.manifest.json").write_text(stem)
        paths.append(output)
    return paths[0], paths[1]


def test_every_byte_of_every_file_is_compared(both: tuple[Path, Path]) -> None:
    """A soak that overlooked one would find nothing, whatever the kills did."""
    undisturbed, output = both
    counts: Counter[str] = Counter()
    assert difference(output, undisturbed, True, counts) == ""
    assert counts["bytes compared"] == size(output) == size(undisturbed) == 2 * 2_400_000 + 200
    part, layer = output.with_name("x-00002-of-00002.jsonl"), next(output.parent.rglob("*.npy"))
    for path in (part, layer):
        before = path.read_bytes()
        path.write_bytes(before[:-1])
        assert difference(output, undisturbed, False, counts) == ""
        assert "undisturbed" in difference(output, undisturbed, True, counts)
        path.write_bytes(before[:-2] + b"?" + before[-1:])
        assert f"from byte {len(before) - 2} on" in difference(output, undisturbed, False, counts)
        path.write_bytes(before + b"?")
        assert f"from byte {len(before)} on" in difference(output, undisturbed, False, counts)
        path.unlink()
        assert difference(output, undisturbed, False, counts) == ""
        assert path.name.removeprefix("x") in difference(output, undisturbed, True, counts)
        path.write_bytes(before)
    part.with_name("x-00003-of-00002.jsonl").touch()
    assert "strange" in difference(output, undisturbed, False, counts)


def raylets() -> set[int]:
    """Those below this process: of a cluster of the tests that is on, too."""
    return {process.pid for process in titled(psutil.Process(), "") if process.name() == "raylet"}


def test_a_killed_raylet_takes_what_runs_on_it_and_another_takes_its_place() -> None:
    # The control store of a busy machine may know of the new node before it knows that the old one is gone.
    code = """
import ray, sys, time
ray.init(sys.argv[1])
for _ in range(100):
    alive = sum(node["Alive"] for node in ray.nodes())
    if alive == 3:
        break
    time.sleep(0.5)
print(alive)
"""
    others = raylets()
    with local_cluster(2) as nodes:
        before = raylets() - others
        nodes.kill_one(random.Random(0))
        after = raylets() - others
        assert len(before) == len(after) == 3
        assert len(before & after) == 2
        told = subprocess.run(
            [sys.executable, "-c", code, nodes.address], capture_output=True, text=True, check=True, timeout=200
        )
        assert "3" in told.stdout.splitlines()[-1]


def started(code: str, folder: Path) -> Run:
    """A Python that runs until it is killed, or ends itself."""
    with (folder / "said.txt").open("wb") as errors:
        return Run(subprocess.Popen([sys.executable, "-c", code], stderr=errors), folder / "said.txt")


@pytest.mark.parametrize(("code", "told"), [(0, ""), (1, "soak: the run ended with 1; it said: no room\n")])
def test_a_run_that_ends_by_itself_is_done_or_stops_the_soak(code: int, told: str, tmp_path: Path) -> None:
    words = f"import sys; print('no room', file=sys.stderr); sys.exit({code})"
    run = started(words, tmp_path)
    run.process.wait(60)
    killer = Killer(random.Random(0), None, Counter())
    if told:
        with pytest.raises(SystemExit, match=re.escape(told)):
            killer.attack(run, lambda: 0, 1)
    else:
        assert killer.attack(run, lambda: 0, 1)
    assert not killer.counts


def test_a_driver_that_writes_is_killed(tmp_path: Path) -> None:
    run = started("import time; time.sleep(300)", tmp_path)
    killer = Killer(random.Random(2), None, Counter())
    assert not killer.attack(run, iter(range(10_000)).__next__, 10)
    assert run.process.returncode == -9
    assert killer.counts == {"drivers killed": 1}


@pytest.mark.nightly
@pytest.mark.parametrize(
    "more",
    [
        ("--writers", "2", "--nodes", "2", "--form", ".jsonl.zst"),
        ("--nodes", "1", "--ablate=--top=1"),
        (),
    ],
    ids=["parts on nodes", "ablation", "own Ray"],
)
def test_killed_runs_leave_the_same_bytes(more: tuple[str, ...], tiny: Path) -> None:
    sources = ["--model", str(tiny / "model"), "--sae-repo", str(tiny / "saes"), "--sae-width", "1k"]
    size = ["--dataset", "bundled", "--num-samples", "12", "--batch-tokens", "80", "--patience", "600"]
    words = ["--minutes", "0.5", *more, "--", *sources, *size, "--attribution"]
    done = subprocess.run([sys.executable, str(SOAK), *words], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* jobs finished.*; 0 bytes differ", done.stdout)


def test_an_ablation_gets_no_option_of_a_run() -> None:
    dice = random.Random(0)
    assert len(Job(["ablate", "x.jsonl"], ".jsonl").spread(dice)) == 2
    assert "--layer-blocks" in Job(["run"], ".jsonl").spread(dice)
