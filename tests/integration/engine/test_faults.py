"""A run under attack: processes killed, nodes lost, memory short, signals. The file ends the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from background import FAULTS, OUTPUT, Start, actors_on, ray_cluster
from conftest import Command


@pytest.mark.slow
def test_actors_killed_in_mid_batch_do_not_change_a_byte(start: Start, expected: bytes) -> None:
    run = start("--gemma-actors", "2", fault="slow:0.05")
    for actor in ("ray::GemmaActor.score", "ray::EncoderActor", "ray::GemmaActor.score", "ray::EncoderActor"):
        before = run.size()
        assert run.wait_until(lambda before=before: run.size() > before)  # type: ignore[misc]
        assert run.wait_until(lambda actor=actor: bool(run.actors(actor)))  # type: ignore[misc]
        for process in run.actors(actor)[:1]:
            process.kill()
    code, _, errors = run.finish()
    assert code == 0, errors
    assert run.output.read_bytes() == expected


@pytest.mark.slow
def test_an_actor_killed_again_and_again_ends_the_run_with_its_batch(start: Start, expected: bytes) -> None:
    run = start(fault="slow:1")
    while run.wait_until(lambda: bool(run.actors("ray::GemmaActor.score"))):
        for process in run.actors("ray::GemmaActor.score"):
            process.kill()
    code, _, errors = run.finish()
    assert code == 1
    assert re.search(r"Batch 0 \(questions \d+.*\) failed 5 times", errors)
    assert "Traceback" not in errors
    assert expected.startswith(run.output.read_bytes())


@pytest.mark.slow
def test_a_lost_node_changes_nothing_and_a_new_one_is_used(start: Start, expected: bytes) -> None:
    """Two nodes with a Gemma actor each; one is removed with what it holds, later another joins."""
    with ray_cluster(fault="slow:0.7", num_cpus=1, object_store_memory=100 << 20) as cluster:
        second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        run = start("--gemma-actors", "2", address=cluster.address)
        assert run.wait_until(lambda: run.size() > 0 and bool(actors_on(second)))
        cluster.remove_node(second, allow_graceful=False)
        lost_at = run.size()
        assert run.wait_until(lambda: run.size() > lost_at)
        third = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        assert run.wait_until(lambda: any("score" in " ".join(p.cmdline()) for p in actors_on(third)))
        code, _, errors = run.finish()
    assert code == 0, errors
    assert run.output.read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_within_seconds_with_whole_lines_and_the_command_to_go_on(
    start: Start, expected: bytes, layerscope: Command, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = start("--overwrite", fault="slow:0.3")
    assert run.wait_until(lambda: run.size() > 0)

    rival = start()
    refused, _, told = rival.finish()
    assert refused == 1
    assert "Another run is writing" in told
    assert "a run is writing it" in layerscope("status", OUTPUT, cwd=tmp_path).stdout

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
    assert "stopped" in layerscope("status", OUTPUT, cwd=tmp_path).stdout


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
            [record[details]["log_likelihood"] for record in got],
            [record[details]["log_likelihood"] for record in wanted],
            rtol=1e-5,
        )


def test_a_question_that_never_fits_stops_the_run_with_its_id(start: Start, expected: bytes) -> None:
    run = start(fault="oom:30")
    code, _, errors = run.finish()
    assert code == 1
    first = json.loads(expected.splitlines()[0])["example_id"]
    assert f"Question {first} " in errors
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) <= 3


def test_retried_errors_are_replaced_in_place_by_the_undisturbed_bytes(start: Start, expected: bytes) -> None:
    """Questions that failed for a passing reason: `--retry-errors` gives the file that would have been."""
    spoilt = start(fault="flaky:2")
    assert spoilt.finish()[0] == 0
    lines = spoilt.output.read_bytes().splitlines(keepends=True)
    failed = [index for index, line in enumerate(lines) if b'"error"' in line]
    assert len(failed) > 20
    assert all(b"after layer 1" in lines[index] for index in failed)
    code, out, errors = start("--retry-errors").finish()
    assert code == 0, errors
    assert f"Retrying {len(failed)} questions" in errors
    assert "(0 with an error line)" in out
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
    settings: dict[str, str], expected: bytes, hub_home: Path, tmp_path: Path
) -> None:
    """A small file system of the test's own fills up while the run writes to it."""
    disk, kept = tmp_path / "disk", tmp_path / "kept.jsonl"
    disk.mkdir()
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    arguments = ["run", *words, "--output-file", OUTPUT, "--address", "local"]
    mount = 'mount -t tmpfs -o size=4m none "$0" && cd "$0" && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", mount, str(disk)]
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine cannot mount a file system of the test's own")
    slow = {"PYTHONPATH": str(FAULTS), "LAYERSCOPE_FAULT": "slow:0.1", "KEEP": str(kept), "HF_HOME": str(hub_home)}
    done = subprocess.run(
        [*inside, sys.executable, "-c", FILL_THE_DISK, *arguments],
        env={**os.environ, **slow},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert kept.read_bytes() == expected
