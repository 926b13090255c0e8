"""The driver killed at random moments, hung up on, and robbed of its actors; `scripts/soak` kills it 25 times.

What the other signals that can be caught do is in `test_faults.py`, for a run in one process; that Ray leaves them to
us, here for a hang-up and in `test_ray_job.py`.
"""

import json
import os
import pty
import random
import re
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from background import OUTPUT, Run, SharedRay, Start, shared_ray
from conftest import Command, config_of
from layerscope.engine.cluster.metrics import Metrics
from layerscope.records.manifest.manifest import manifest_path
from layerscope.records.reading.run import Run as RunFile
from layerscope.records.reading.stretches import read_stretches
from layerscope.records.writing.packing import pack, packing
from paths import ROOT
from plain import plain_run

EXPORTED = {"Counter": "_total", "Gauge": "", "Histogram": "_count"}
DRAWN = {**EXPORTED, "Histogram": "_bucket"}


def exported_names(suffixes: dict[str, str]) -> set[str]:
    """Every metric of a run, under the name that Ray's exporter gives it."""
    metrics = Metrics()._metrics.values()
    return {metric.info["name"] + suffixes[type(metric).__name__] for metric in metrics}


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    panels = json.loads((ROOT / "scripts/grafana_dashboard.json").read_text(encoding="utf-8"))["panels"]
    drawn = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"ray_(layerscope_\w+)", target["expr"])
    }
    assert drawn == exported_names(DRAWN)


PACKED = f"{OUTPUT}.zst"
MOST = ("--attribution", "gradient", "--all-solutions")


@pytest.fixture(scope="module")
def settings(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The questions with two to five solutions each, the further ones those of their neighbours."""
    rows = [json.loads(line) for line in Path(settings["dataset"]).read_text(encoding="utf-8").splitlines()]
    texts = [row[name] for row in rows if row["sol1"] for name in ("sol1", "sol2")]
    many = []
    for number, row in enumerate(rows):
        further = [text for text in texts[number : number + 3] if text not in (row["sol1"], row["sol2"])]
        choices = [row["sol1"], row["sol2"], *further[: number % 4]]
        many.append({"question": row["goal"], "choices": choices, "answer": row["label"]})
    path = tmp_path_factory.mktemp("choices") / "choices.jsonl"
    path.write_text("\n".join(map(json.dumps, many)), encoding="utf-8")
    return {**settings, "dataset": str(path)}


@pytest.fixture(scope="module")
def cluster_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRay]:
    """One that exports metrics."""
    with shared_ray(tmp_path_factory.mktemp("ray") / "fault", exporter=True) as ray:
        yield ray


@pytest.fixture(scope="module")
def undisturbed(settings: dict[str, str]) -> bytes:
    """The finished file of a run with all of that which nothing interrupts."""
    found = plain_run(config_of(settings, attribution="gradient", all_solutions=True))
    counts = Counter(len(json.loads(line)["others"] or []) for line in found.splitlines())
    assert counts.keys() == {0, 1, 2, 3}
    return found


@pytest.mark.slow
def test_a_driver_killed_again_and_again_leaves_a_prefix_each_time_and_the_same_file(
    start: Start,
    undisturbed: bytes,
    run_here: Callable[..., "subprocess.CompletedProcess[str]"],
    command: Command,
    cluster_for_all: SharedRay,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    """SIGKILL at random moments: while it starts, and while it writes; each time the same command goes on.
    Of a run with attributions and the features of up to five solutions, whose lines have most to lose.

    While one runs, another is refused, and whoever asks is told that it runs. Before the last kill what there is is
    copied to compressed lines, which are gone on with. Then comes a run whose terminal goes away, and at last one whose
    actors are killed, which ends the file.
    """
    dice, expected, begin = random.Random(0), undisturbed, partial(start, *MOST)
    wanted = pytestconfig.getoption("--kills")
    for kill in range(1, wanted + 1):
        if kill == wanted:
            if not written(tmp_path):
                assert run_here(*MOST, fault="interrupt").returncode == 130
            assert command("export", OUTPUT, "--to", PACKED, cwd=tmp_path).returncode == 0
            begin = partial(start, *MOST, output=PACKED)
        run = begin(fault="slow:0.2")
        if kill == 1 or (kill < wanted and dice.random() < 0.4):
            moment = time.monotonic() + dice.uniform(0.2, 2 if kill == 1 else 5)
            assert run.wait_until(lambda moment=moment: time.monotonic() > moment), "it ended before its kill"  # type: ignore[misc]
        else:
            size = run.size() + dice.randrange(1, len(expected) // (wanted + 2)) // (10 if kill == wanted else 1)
            assert run.wait_until(lambda size=size, run=run: run.size() >= size), "it ended before its kill"  # type: ignore[misc]
            refused = run_here(*MOST, "--output-file", run.output.name)
            assert refused.returncode == 1
            assert "Another run is writing" in refused.stderr
            assert "a run is writing it" in command("status", run.output.name, cwd=tmp_path).stdout
        run.end()
        assert expected.startswith(written(tmp_path, run.output.name))
    lose_the_terminal(begin)
    left = written(tmp_path, PACKED)
    assert left.endswith(b"\n")
    assert len(left) < len(expected)
    assert expected.startswith(left)
    kill_actors_and_watch(begin, cluster_for_all, len(expected.splitlines()) - len(left.splitlines()))
    assert written(tmp_path, PACKED) == expected
    whole, how = RunFile.open(tmp_path / PACKED), packing("zstd")
    lines, ends = expected.splitlines(keepends=True), whole.manifest.about.batch_ends
    frames = [pack(lines[begun:end], how) for begun, end in pairwise([0, *ends])]
    assert whole.path.read_bytes() == b"".join(frames), "cut elsewhere than between batches"
    check_logs(cluster_for_all)


@pytest.mark.slow
def test_an_ablation_whose_actor_and_then_its_driver_is_killed_ends_with_the_same_file(
    start: Start,
    run_here: Callable[..., "subprocess.CompletedProcess[str]"],
    command: Command,
    cluster_for_all: SharedRay,
    tmp_path: Path,
) -> None:
    """SIGKILL within a batch, both times; whoever asks meanwhile is told of it. What is left is ended here."""
    assert run_here(*MOST, "--output-file", "run.jsonl").returncode == 0
    ablate = ["ablate", "run.jsonl", "--top", "2"]
    whole = command(*ablate, "--output-file", "whole.jsonl", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    expected = (tmp_path / "whole.jsonl").read_bytes()
    run = start(of=ablate, fault="slow:0.1")
    kill_one(run, "ray::GemmaActor.score")
    size = run.size()
    assert run.wait_until(lambda: run.size() > size), "another actor does what it did"
    cluster_for_all.set_fault("slow:1")
    assert "state     it is being written" in command("status", OUTPUT, cwd=tmp_path).stdout
    refused = command(*ablate, "--output-file", OUTPUT, cwd=tmp_path)
    assert refused.returncode == 1
    assert "is writing" in refused.stderr
    run.end()
    left = written(tmp_path)
    assert size < len(left) < len(expected)
    assert expected.startswith(left)
    again = command(*ablate, "--output-file", OUTPUT, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == f"file      {tmp_path / OUTPUT}"
    assert written(tmp_path) == expected
    assert "480 of 480 lines of ablations, all whole" in command("verify", OUTPUT, cwd=tmp_path).stdout


@pytest.mark.slow
def test_parts_whose_head_and_then_whose_writer_is_killed_are_the_single_file(
    start: Start,
    settings: dict[str, str],
    run_here: Callable[..., "subprocess.CompletedProcess[str]"],
    command: Command,
    cluster_for_all: SharedRay,
    tmp_path: Path,
) -> None:
    """What a head that is gone leaves is gone on with by the same command; the head replaces the writer.

    The part that the writer has left is done here before: its actors would show nothing more.
    """
    expected = plain_run(config_of(settings))
    parts = [tmp_path / f"x-0000{number}-of-00002.jsonl" for number in (1, 2)]
    start = partial(start, "--writers", "2", output="x.jsonl")

    def joined() -> bytes:
        return b"".join(part.read_bytes() for part in parts if part.exists())

    def another_line() -> None:
        before = len(joined())
        assert run.wait_until(lambda: len(joined()) > before)

    run = start(fault="slow:0.2")
    another_line()
    run.end()
    left = {path: path.read_bytes() for path in (parts[0], manifest_path(parts[0]))}
    assert 0 < len(joined()) < len(expected)
    assert expected.startswith(joined())
    assert run_here("--writers", "2", "--output-file", "x.jsonl").returncode == 0
    assert joined() == expected
    for path, content in left.items():
        path.write_bytes(content)
    run = start(fault="slow:0.2")
    another_line()
    (writer,) = run.actors("ray::WriterActor")
    writer.kill()
    another_line()
    cluster_for_all.set_fault("")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert joined() == expected
    assert "60 of 60 lines, all whole" in command("verify", "x.jsonl", cwd=tmp_path).stdout


def written(folder: Path, name: str = OUTPUT) -> bytes:
    """The lines of a file, and of a plain one what is torn behind them too."""
    path = folder / name
    if name == PACKED:
        return b"".join(stretch.text for stretch in read_stretches(path))
    return path.read_bytes() if path.exists() else b""


def lose_the_terminal(start: Start) -> None:
    """The shell and the kernel send a hang-up each, and every later write to the terminal fails."""
    ours, its = pty.openpty()
    os.set_blocking(ours, False)
    run = start(fault="slow:0.2", terminal=its)
    os.close(its)
    before = run.size()

    def goes_on() -> bool:
        with suppress(OSError):
            os.read(ours, 1 << 16)  # a terminal that nobody reads takes no more
        return run.size() > before

    assert run.wait_until(goes_on)
    os.close(ours)
    run.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)  # two at once would be one
    run.process.send_signal(signal.SIGHUP)
    assert run.process.wait(timeout=60) == 128 + signal.SIGHUP


def kill_actors_and_watch(start: Start, ray: SharedRay, questions: int) -> None:
    """Killed in mid-batch; Prometheus sees it all.

    Every metric that there is moves: one that nobody updates would show a run that has stopped, or none.
    """
    wanted = exported_names(EXPORTED)
    before = exported(ray)
    run = start(fault="slow:0.1")
    at = run.size()
    for actor in ("ray::GemmaActor.score", "ray::EncoderActor"):
        kill_one(run, actor)
    ray.set_fault("slow:1")  # the run outlasts the exporter
    seen: dict[str, float] = {}

    def told(missing: Set[str]) -> bool:
        for (name, labels), value in exported(ray).items():
            if value > before[name, labels]:
                seen[name] = value - before[name, labels]
        return wanted <= seen.keys() | missing

    # Ray's exporter hears of them each second.
    assert run.wait_until(lambda: told({"layerscope_error_lines_total"}), glance=0.5), wanted - seen.keys()
    ray.set_fault("")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert told(set()), "the last line is an error line"
    assert seen["layerscope_questions_total"] == questions
    assert seen["layerscope_bytes_total"] == run.size() - at


def kill_one(run: Run, actor: str) -> None:
    """The first actor with such a title, once another line is written."""
    size = run.size()
    assert run.wait_until(lambda: run.size() > size)
    assert run.wait_until(lambda: bool(run.actors(actor)))
    run.actors(actor)[0].kill()


def exported(ray: SharedRay) -> Counter[tuple[str, str]]:
    """By metric and labels; the cluster's earlier runs are among them."""
    text = urllib.request.urlopen(ray.metrics, timeout=10).read().decode()
    found = re.findall(r"^ray_(layerscope_\w+)((?:\{.*\})?) ([\d.e+]+)$", text, re.MULTILINE)
    return Counter({(name, labels): float(value) for name, labels, value in found})  # type: ignore[misc]


def check_logs(ray: SharedRay) -> None:
    """Of every batch, who worked on it, where and for how long."""
    lines = [
        json.loads(line)
        for log in ray.logs.glob("worker-*.err")
        for line in log.read_text().splitlines()
        if line.startswith("{")
    ]
    roles = {line["role"] for line in lines if line["event"] in ("score", "encode") and line["batch"] >= 0}
    assert {"gemma", "encoder 0-2"} <= roles
    assert all(line["node"] and line["pid"] and line["seconds"] >= 0 for line in lines)
