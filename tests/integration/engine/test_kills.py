"""The driver killed at random moments, again and again; `scripts/soak` kills it 25 times.

What signals that can be caught do is in `test_faults.py`, for a run in one process; that Ray leaves them to us, in
`test_ray_job.py`.
"""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from background import OUTPUT, Start
from conftest import Command


@pytest.mark.slow
def test_a_driver_killed_again_and_again_leaves_a_prefix_each_time_and_the_same_file(
    start: Start,
    expected: bytes,
    run_here: Callable[..., "subprocess.CompletedProcess[str]"],
    command: Command,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    """SIGKILL at random moments: while it starts, and while it writes; each time the same command goes on.

    While one runs, another is refused, and whoever asks is told that it runs.
    """
    dice = random.Random(0)
    wanted = pytestconfig.getoption("--kills")
    kills = 0
    while kills < wanted:
        run = start(fault="slow:0.2")
        if not kills or dice.random() < 0.4:
            moment = time.monotonic() + dice.uniform(0.2, 5 if kills else 2)
            run.wait_until(lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
        else:
            size = run.size() + dice.randrange(1, len(expected) // (wanted + 1))
            run.wait_until(lambda size=size, run=run: run.size() >= size)  # type: ignore[misc]
            refused = run_here()
            assert refused.returncode == 1
            assert "Another run is writing" in refused.stderr
            assert "a run is writing it" in command("status", OUTPUT, cwd=tmp_path).stdout
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
