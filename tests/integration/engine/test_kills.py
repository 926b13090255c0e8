"""The driver killed at random moments, again and again: a file of its own, so that it runs beside the other faults."""

import random
import time

import pytest

from background import Start, ray_cluster


@pytest.mark.slow
def test_the_driver_killed_25_times_leaves_a_prefix_each_time_and_the_same_file(start: Start, expected: bytes) -> None:
    """SIGKILL at random moments: while it starts, and while it writes; each time the same command goes on."""
    dice = random.Random(0)
    kills = 0
    with ray_cluster(num_cpus=4, object_store_memory=200 << 20) as cluster:
        while kills < 25:
            run = start("--layer-blocks", "1", address=cluster.address)
            if dice.random() < 0.4:
                moment = time.monotonic() + dice.uniform(0.2, 5)
                run.wait_until(lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
            else:
                size = run.size() + dice.randrange(1, len(expected) // 25)
                run.wait_until(lambda size=size, run=run: run.size() >= size)  # type: ignore[misc]
            if run.process.poll() is not None:
                break  # it came to the end before its next kill
            run.process.kill()
            run.process.wait()
            kills += 1
            written = run.output.read_bytes() if run.output.exists() else b""
            assert expected.startswith(written)
        code, _, errors = start(address=cluster.address).finish()
    assert code == 0, errors
    assert run.output.read_bytes() == expected
    assert kills == 25
