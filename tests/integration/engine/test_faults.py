"""A run that meets faults: memory short, questions that fail, a signal, a full disk. The file ends the same.

The actors are in one process; `test_kills.py` has what only their own processes can show.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from background import OUTPUT, faulty
from conftest import words

Here = Callable[..., "subprocess.CompletedProcess[str]"]


def test_shards_one_after_the_other_are_the_whole_run_and_a_timeline_shows_who_worked(
    run_here: Here, expected: bytes, tmp_path: Path
) -> None:
    whole = b""
    for shard in ("1/2", "2/2"):
        done = run_here("--shard", shard, "--timeline", f"{shard[0]}.json", "--overwrite")
        assert done.returncode == 0, done.stderr
        written = (tmp_path / OUTPUT).read_bytes()
        assert 0 < len(written) < len(expected)
        whole += written
        spans = [event for event in json.loads((tmp_path / f"{shard[0]}.json").read_text()) if event["ph"] == "X"]
        assert {event["name"] for event in spans} == {"score", "encode", "write"}
        assert all(event["dur"] >= 0 for event in spans)
        batches = [event["args"]["batch"] for event in spans if event["name"] == "write"]
        assert batches == list(range(len(batches)))
    assert whole == expected
    refused = run_here("--shard", "1/2")
    assert refused.returncode == 2
    assert "shard was 2/2, is 1/2" in refused.stderr


def test_a_batch_that_does_not_fit_is_halved_and_named(run_here: Here, expected: bytes, tmp_path: Path) -> None:
    """On the CPU the memory error is raised by the test; the plan stays, records agree to rounding."""
    done = run_here("--batch-tokens", "160", fault="oom:100")
    assert done.returncode == 0, done.stderr
    assert "was halved" in done.stderr
    manifest = json.loads((tmp_path / f"{OUTPUT}.manifest.json").read_text(encoding="utf-8"))
    assert manifest["halved_batches"]
    got = [json.loads(line) for line in (tmp_path / OUTPUT).read_bytes().splitlines()]
    wanted = [json.loads(line) for line in expected.splitlines()]
    assert [record["example_id"] for record in got] == [record["example_id"] for record in wanted]
    for details in ("positive_solution_details", "negative_solution_details"):
        np.testing.assert_allclose(
            [record[details]["log_likelihood"] for record in got if not record["error"]],
            [record[details]["log_likelihood"] for record in wanted if not record["error"]],
            rtol=1e-5,
        )


def test_a_question_that_never_fits_stops_the_run_with_its_id(run_here: Here, expected: bytes) -> None:
    done = run_here(fault="oom:30")
    assert done.returncode == 1
    first = json.loads(expected.splitlines()[0])["example_id"]
    assert f"Question {first} " in done.stderr
    assert len(done.stderr[done.stderr.index(f"Question {first} ") :].strip().splitlines()) <= 2


def test_a_device_that_fails_once_costs_its_actor_and_no_byte(run_here: Here, expected: bytes, tmp_path: Path) -> None:
    """A GPU that falls off the bus, or an illegal access, is no bug that ends the run with a traceback."""
    done = run_here(fault="device:1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / OUTPUT).read_bytes() == expected
    again = next(line for line in done.stdout.splitlines() if line.startswith("computed again"))
    assert int(again.split()[2]) > 0
    in_parts = run_here("--writers", "2", "--output-file", "x.jsonl", fault="device:1")
    assert "\ncomputed again " in in_parts.stdout
    assert "computed again" not in run_here("--output-file", "undisturbed.jsonl").stdout


def test_a_device_that_stays_out_of_order_ends_the_run_in_words(run_here: Here) -> None:
    done = run_here(fault="device:0")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = done.stderr[done.stderr.index("layerscope: ") :].strip().splitlines()
    assert "failed 5 times: RuntimeError: CUDA error: an illegal memory access" in told[0]
    assert "run again to go on" in told[-1]
    assert len(told) <= 3


def test_an_interrupt_leaves_whole_lines_and_the_command_to_go_on(
    run_here: Here, expected: bytes, tmp_path: Path
) -> None:
    stopped = run_here("--overwrite", fault="interrupt")
    assert stopped.returncode == 130
    assert "Stopped by SIGINT" in stopped.stdout
    assert "To go on: layerscope run" in stopped.stdout
    assert "--overwrite" not in stopped.stdout
    written = (tmp_path / OUTPUT).read_bytes()
    assert expected.startswith(written)
    assert len(written) < len(expected)
    assert run_here().returncode == 0
    assert (tmp_path / OUTPUT).read_bytes() == expected


@pytest.mark.parametrize("at", ["prepare", "write_array", "summarise"])
def test_a_signal_before_and_after_the_work_is_told_with_where_it_stands(
    at: str, run_here: Here, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def struck(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(f"layerscope.commands.run.{at}", struck)
        stopped = run_here("--output-file", "x.json")
    told = "before the work began; nothing was changed" if at == "prepare" else "after 60 of 60 questions"
    assert stopped.returncode == 143
    assert f"Stopped by SIGTERM {told}.\nTo go on: layerscope run" in (stopped.stdout or stopped.stderr)
    assert (tmp_path / "x.jsonl").exists() == (at != "prepare")
    assert run_here("--output-file", "x.json").returncode == 0
    assert (tmp_path / "x.jsonl").read_bytes() == expected
    assert len(orjson.loads((tmp_path / "x.json").read_bytes())) == 60


def test_retried_errors_are_replaced_in_place_by_the_undisturbed_bytes(
    run_here: Here, expected: bytes, tmp_path: Path
) -> None:
    """Questions that failed for a passing reason: `--retry-errors` gives the file that would have been."""
    assert run_here(fault="flaky:2").returncode == 0
    lines = (tmp_path / OUTPUT).read_bytes().splitlines(keepends=True)
    failed = [index for index, line in enumerate(lines) if b'"error":""' not in line]
    assert len(failed) > 20
    assert all(b"after layer 1" in lines[index] for index in failed[:-1])
    stopped = run_here("--retry-errors", fault="terminate")
    assert stopped.returncode == 143, "the file has all its lines, and still not all is done"
    assert f"Stopped by SIGTERM after {len(lines)} of {len(lines)} questions, " in stopped.stdout
    assert f" of {len(failed)} with an error line not computed again." in stopped.stdout
    done = run_here("--retry-errors")
    assert done.returncode == 0, done.stderr
    assert "questions with an error line." in done.stderr
    assert "(1 with an error line)" in done.stdout
    assert (tmp_path / OUTPUT).read_bytes() == expected


FILL_THE_DISK = """
import os, sys, threading, time
from layerscope.cli import main
from layerscope.commands import run
from in_process import OneProcess
run.Cluster = OneProcess

def code():
    try:
        main()
    except SystemExit as ended:
        return ended.code

def fill():
    while not (os.path.exists("out.jsonl") and b"\\n" in open("out.jsonl", "rb").read()):
        time.sleep(0.001)
    with open("filler", "wb", buffering=0) as filler:
        while not ended:
            try:
                filler.write(bytes(4096))
            except OSError:
                time.sleep(0.001)

ended = False
filling = threading.Thread(target=fill)
filling.start()
first = code()
ended = True
filling.join()
whole = open("out.jsonl", "rb").read()
assert first == 1 and whole.endswith(b"\\n")
os.unlink("filler")
os.environ["LAYERSCOPE_FAULT"] = ""
assert not code()
assert open("out.jsonl", "rb").read().startswith(whole)
open(os.environ["KEEP"], "wb").write(open("out.jsonl", "rb").read())
"""


def test_a_disk_that_fills_stops_the_run_and_room_lets_it_go_on(
    settings: dict[str, str], expected: bytes, tmp_path: Path
) -> None:
    """A small file system of the test's own fills up while the run writes to it."""
    disk, kept = tmp_path / "disk", tmp_path / "kept.jsonl"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=4m none "$0" && cd "$0" && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", mount, str(disk)]
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine cannot mount a file system of the test's own")
    path = os.pathsep.join([faulty("")["PYTHONPATH"], *sys.path])
    done = subprocess.run(
        [*inside, sys.executable, "-c", FILL_THE_DISK, "run", *words(settings), "--output-file", OUTPUT],
        env={**os.environ, **faulty("slow:0.05"), "PYTHONPATH": path, "KEEP": str(kept)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert kept.read_bytes() == expected
