"""The driver killed at random moments, again and again; `scripts/soak` does it 25 times."""

import random
import time

import pytest

from background import Start


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
        if dice.random() < 0.4:
            moment = time.monotonic() + dice.uniform(0.2, 5)
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
