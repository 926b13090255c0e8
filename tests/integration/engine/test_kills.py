"""The driver killed at random moments, again and again, and sent signals; `scripts/soak` kills it 25 times."""

import random
import signal
import time
from pathlib import Path

import pytest

from background import OUTPUT, Start
from conftest import Command


@pytest.mark.slow
def test_a_driver_killed_again_and_again_leaves_a_prefix_each_time_and_the_same_file(
    start: Start, expected: bytes, pytestconfig: pytest.Config
) -> None:
    """SIGKILL at random moments: while it starts, and while it writes; each time the same command goes on."""
    dice = random.Random(0)
    wanted = pytestconfig.getoption("--kills")
    kills = 0
    while kills < wanted:
        run = start(fault="slow:0.01")
        if not kills or dice.random() < 0.4:
            moment = time.monotonic() + dice.uniform(0.2, 5 if kills else 2)
            run.wait_until(lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
        else:
            size = run.size() + dice.randrange(1, len(expected) // (wanted + 1))
            run.wait_until(lambda size=size, run=run: run.size() >= size)  # type: ignore[misc]
        if run.process.poll() is not None:
            break  # it came to the end before its next kill
        run.end()
        kills += 1
        written = run.output.read_bytes() if run.output.exists() else b""
        assert expected.startswith(written)
    code, _, errors = start().finish()
    assert code == 0, errors
    assert run.output.read_bytes() == expected
    assert kills == wanted


@pytest.mark.slow
def test_a_signal_stops_within_seconds_with_whole_lines_and_the_command_to_go_on(
    start: Start, expected: bytes, command: Command, tmp_path: Path
) -> None:
    """SIGTERM, which Ray takes; a hang-up is sent where a terminal is lost, and SIGINT to a run in one process."""
    run = start("--overwrite", fault="slow:0.3")
    assert run.wait_until(lambda: run.size() > 0)
    refused, _, told = start(fault="slow:0.3").finish()
    assert refused == 1
    assert "Another run is writing" in told
    assert "a run is writing it" in command("status", OUTPUT, cwd=tmp_path).stdout
    asked = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    code, out, _ = run.finish()
    assert code == 143
    assert time.monotonic() - asked < 10
    assert "Stopped by SIGTERM" in out
    assert "To go on: layerscope run" in out
    assert "--overwrite" not in out  # which would start anew
    written = run.output.read_bytes()
    assert written.endswith(b"\n")
    assert expected.startswith(written)
    assert "stopped" in command("status", OUTPUT, cwd=tmp_path).stdout
