"""A run under attack: actors killed, memory short, signals, a full disk. The file ends the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Set
from pathlib import Path

import numpy as np
import pytest

from background import OUTPUT, SharedRay, Start
from conftest import Command, words
from layerscope.engine.metrics import Metrics
from paths import ROOT

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


@pytest.mark.slow
def test_actors_killed_in_mid_batch_do_not_change_a_byte_and_prometheus_sees_it_all(
    start: Start, expected: bytes, cluster_for_all: SharedRay
) -> None:
    """Every metric that there is moves: one that nobody updates would show a run that has stopped, or none."""
    wanted = exported_names(EXPORTED)

    def exported() -> Counter[tuple[str, str]]:
        """By metric and labels; the cluster's earlier runs are among them."""
        text = urllib.request.urlopen(cluster_for_all.metrics, timeout=10).read().decode()
        found = re.findall(r"^ray_(layerscope_\w+)((?:\{.*\})?) ([\d.e+]+)$", text, re.MULTILINE)
        return Counter({(name, labels): float(value) for name, labels, value in found})  # type: ignore[misc]

    before = exported()
    run = start("--gemma-actors", "2", "--layer-blocks", "2", fault="slow:0.1")
    for actor in ("ray::GemmaActor.score", "ray::EncoderActor"):
        size = run.size()
        assert run.wait_until(lambda size=size: run.size() > size)  # type: ignore[misc]
        assert run.wait_until(lambda actor=actor: bool(run.actors(actor)))  # type: ignore[misc]
        run.actors(actor)[0].kill()
    cluster_for_all.set_fault("slow:1")  # the run outlasts the exporter
    seen: dict[str, float] = {}

    def told(missing: Set[str]) -> bool:
        for (name, labels), value in exported().items():
            if value > before[name, labels]:
                seen[name] = value - before[name, labels]
        return wanted <= seen.keys() | missing

    assert run.wait_until(lambda: told({"layerscope_error_lines_total"})), wanted - seen.keys()
    cluster_for_all.set_fault("")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert run.output.read_bytes() == expected
    assert told(set()), "the last line is an error line"
    assert seen["layerscope_questions_total"] == len(expected.splitlines())
    assert seen["layerscope_bytes_total"] == len(expected)
    lines = [
        json.loads(line)
        for log in cluster_for_all.logs.glob("worker-*.err")
        for line in log.read_text().splitlines()
        if line.startswith("{")
    ]
    roles = {line["role"] for line in lines if line["event"] in ("score", "encode") and line["batch"] >= 0}
    assert {"gemma", "encoder 0-1", "encoder 2"} <= roles
    assert all(line["node"] and line["pid"] and line["seconds"] >= 0 for line in lines)


def test_shards_one_after_the_other_are_the_whole_run_and_a_timeline_shows_who_worked(
    start: Start, expected: bytes, tmp_path: Path
) -> None:
    whole = b""
    for shard in ("1/2", "2/2"):
        run = start("--shard", shard, "--timeline", f"{shard[0]}.json", "--overwrite")
        code, _, errors = run.finish()
        assert code == 0, errors
        assert 0 < run.size() < len(expected)
        whole += run.output.read_bytes()
        spans = [event for event in json.loads((tmp_path / f"{shard[0]}.json").read_text()) if event["ph"] == "X"]
        assert {event["name"] for event in spans} == {"score", "encode", "write"}
        assert all(event["dur"] >= 0 for event in spans)
        written = [event["args"]["batch"] for event in spans if event["name"] == "write"]
        assert written == list(range(len(written)))
    assert whole == expected
    refused, _, errors = start("--shard", "1/2").finish()
    assert refused == 2
    assert "shard was 2/2, is 1/2" in errors


@pytest.mark.slow
def test_a_signal_stops_within_seconds_with_whole_lines_and_the_command_to_go_on(
    start: Start, expected: bytes, command: Command, tmp_path: Path
) -> None:
    """SIGINT, and SIGTERM, which Ray takes; a hang-up is sent where a terminal is lost."""
    written = b""
    for number, code, *more in ((signal.SIGINT, 130, "--overwrite"), (signal.SIGTERM, 143)):
        before = len(written)
        run = start(*more, fault="slow:0.3")
        assert run.wait_until(lambda run=run, before=before: run.size() > before)  # type: ignore[misc]
        if number == signal.SIGINT:
            refused, _, told = start(fault="slow:0.3").finish()
            assert refused == 1
            assert "Another run is writing" in told
            assert "a run is writing it" in command("status", OUTPUT, cwd=tmp_path).stdout
        asked = time.monotonic()
        run.process.send_signal(number)
        stopped, out, _ = run.finish()
        assert stopped == code
        assert time.monotonic() - asked < 10
        assert f"Stopped by {number.name}" in out
        assert "To go on: layerscope run" in out
        assert "--overwrite" not in out  # which would start anew
        written = run.output.read_bytes()
        assert written.endswith(b"\n")
        assert expected.startswith(written)
        assert "stopped" in command("status", OUTPUT, cwd=tmp_path).stdout


def test_a_batch_that_does_not_fit_is_halved_and_named(start: Start, expected: bytes, tmp_path: Path) -> None:
    """On the CPU the memory error is raised by the test; the plan stays, records agree to rounding."""
    run = start("--batch-tokens", "160", fault="oom:100")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert "was halved" in errors
    manifest = json.loads((tmp_path / f"{OUTPUT}.manifest.json").read_text(encoding="utf-8"))
    assert manifest["halved_batches"]
    got = [json.loads(line) for line in run.output.read_bytes().splitlines()]
    wanted = [json.loads(line) for line in expected.splitlines()]
    assert [record["example_id"] for record in got] == [record["example_id"] for record in wanted]
    for details in ("positive_solution_details", "negative_solution_details"):
        np.testing.assert_allclose(
            [record[details]["log_likelihood"] for record in got if not record["error"]],
            [record[details]["log_likelihood"] for record in wanted if not record["error"]],
            rtol=1e-5,
        )


def test_a_question_that_never_fits_stops_the_run_with_its_id(start: Start, expected: bytes) -> None:
    run = start(fault="oom:30")
    code, _, errors = run.finish()
    assert code == 1
    first = json.loads(expected.splitlines()[0])["example_id"]
    assert f"Question {first} " in errors
    assert "Traceback" not in errors
    assert len(errors[errors.index(f"Question {first} ") :].strip().splitlines()) <= 2


def test_retried_errors_are_replaced_in_place_by_the_undisturbed_bytes(start: Start, expected: bytes) -> None:
    """Questions that failed for a passing reason: `--retry-errors` gives the file that would have been."""
    spoilt = start(fault="flaky:2")
    assert spoilt.finish()[0] == 0
    lines = spoilt.output.read_bytes().splitlines(keepends=True)
    failed = [index for index, line in enumerate(lines) if b'"error":""' not in line]
    assert len(failed) > 20
    assert all(b"after layer 1" in lines[index] for index in failed[:-1])
    stopped = start("--retry-errors", fault="slow:0.5")
    assert stopped.wait_until(lambda: bool(stopped.actors("ray::GemmaActor.score")))
    stopped.process.send_signal(signal.SIGTERM)
    code, out, _ = stopped.finish()
    assert code == 143, "the file has all its lines, and still not all is done"
    assert f"Stopped by SIGTERM after {len(lines)} of {len(lines)} questions, " in out
    assert f" of {len(failed)} with an error line not computed again." in out
    code, out, errors = start("--retry-errors").finish()
    assert code == 0, errors
    assert "questions with an error line." in errors
    assert "(1 with an error line)" in out
    assert spoilt.output.read_bytes() == expected


FILL_THE_DISK = """
import os, subprocess, sys, time
run = [sys.executable, "-m", "layerscope", *sys.argv[1:]]
first = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
while first.poll() is None and not (os.path.exists("out.jsonl") and os.path.getsize("out.jsonl")):
    time.sleep(0.01)
with open("filler", "wb", buffering=0) as filler:
    while first.poll() is None:
        try:
            filler.write(bytes(4096))
        except OSError:
            time.sleep(0.01)
_, errors = first.communicate()
whole = open("out.jsonl", "rb").read()
assert first.returncode == 1, errors
assert "No space left on device" in errors and "Traceback" not in errors, errors
assert whole.endswith(b"\\n")
os.unlink("filler")
second = subprocess.run(run, stderr=subprocess.PIPE, text=True)
assert second.returncode == 0, second.stderr
assert open("out.jsonl", "rb").read().startswith(whole)
open(os.environ["KEEP"], "wb").write(open("out.jsonl", "rb").read())
"""


def test_a_disk_that_fills_stops_the_run_and_room_lets_it_go_on(
    settings: dict[str, str], expected: bytes, cluster_for_all: SharedRay, tmp_path: Path
) -> None:
    """A small file system of the test's own fills up while the run writes to it."""
    disk, kept = tmp_path / "disk", tmp_path / "kept.jsonl"
    disk.mkdir()
    arguments = ["run", *words(settings), "--output-file", OUTPUT, "--address", cluster_for_all.address]
    mount = 'mount -t tmpfs -o size=4m none "$0" && cd "$0" && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", mount, str(disk)]
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine cannot mount a file system of the test's own")
    cluster_for_all.set_fault("slow:0.1")
    done = subprocess.run(
        [*inside, sys.executable, "-c", FILL_THE_DISK, *arguments],
        env={**os.environ, "KEEP": str(kept)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert kept.read_bytes() == expected
