"""A run on a cluster whose nodes come, go, are lost, fill up and differ: it spreads, goes on, or says why it cannot."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from background import Start, actors_on, ray_cluster, raylet_of, say, titled

STORE = 100 << 20


@pytest.fixture(scope="module")
def pace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says how slow a forward pass is: a test acts while it is slow, and is done soon after."""
    path = tmp_path_factory.mktemp("pace") / "fault"
    say(path, "")
    return path


@pytest.fixture(scope="module")
def cluster(pace: Path) -> Iterator[Cluster]:
    """A head that takes no work."""
    with ray_cluster(pace, num_cpus=0, object_store_memory=STORE) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Any:
    """A node of the cluster with one CPU, which stays."""
    return add_node(cluster)


def add_node(cluster: Cluster, **resources: Any) -> Any:
    return cluster.add_node(**{"num_cpus": 1, "object_store_memory": STORE, **resources})


def at_work(node: Any) -> bool:
    """Whether a Gemma actor on the node is in a forward pass."""
    return any("score" in " ".join(process.cmdline()) for process in actors_on(node))


def test_a_head_that_takes_no_work_and_a_cluster_that_adds_none_end_the_run(cluster: Cluster, start: Start) -> None:
    code, _, errors = start("--patience", "2", address=cluster.address).finish()
    assert code == 1
    assert "No node of the cluster takes work" in errors
    assert "Traceback" not in errors


def test_a_plan_asks_a_cluster_for_no_node(cluster: Cluster) -> None:
    """One that scales itself would start it, which may cost, and the plan would wait for it."""
    words = [sys.executable, "-m", "layerscope", "plan", "--standin", "--address", cluster.address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "which may cost; `plan` starts none" in done.stderr
    assert "Traceback" not in done.stderr
    asked = GcsClient(cluster.address).internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None)
    assert asked in (None, b"[]"), "what a run asked for before is taken back"


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_a_lost_node_changes_nothing_and_a_new_one_is_used_until_it_drains(
    cluster: Cluster, start: Start, expected: bytes, pace: Path, tmp_path: Path
) -> None:
    """Two nodes with a Gemma actor each; one is lost with what it holds, a third joins unasked, and is called back."""
    say(pace, "slow:3")
    second = add_node(cluster)
    said = tmp_path / "said"
    with said.open("w+") as file:
        run = start("--gemma-actors", "2", address=cluster.address, terminal=file.fileno())
    assert run.wait_until(lambda: run.size() > 0 and at_work(second))
    cluster.remove_node(second, allow_graceful=False)
    lost_at = run.size()
    assert run.wait_until(lambda: run.size() > lost_at)
    third = add_node(cluster)
    assert run.wait_until(lambda: at_work(third) and " joined.\n" in said.read_text())
    say(pace, "slow:0.3")
    accepted, reason = GcsClient(cluster.address).drain_node(
        third.node_id,
        autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "spot",
        int(time.time() + 60) * 1000,
    )
    assert accepted, reason
    assert run.wait_until(lambda: not actors_on(third)), "its Gemma actor ends what it has and leaves"
    cluster.remove_node(third, allow_graceful=False)
    say(pace, "")
    code, _, _ = run.finish()
    errors = said.read_text()
    assert code == 0, errors
    assert errors.count(" joined.\n") == 1, "the third: both actors that were asked for have their places"
    assert errors.count(" is about to leave the cluster: its actors get no new batch.\n") == 1
    assert errors.count(" left.\n") in (1, 2), "the second, and the third if it is missed before the end"
    assert run.output.read_bytes() == expected


@pytest.mark.slow
def test_a_lost_nodes_part_is_gone_on_with_by_a_writer_elsewhere(
    cluster: Cluster, home: Any, start: Start, expected: bytes, pace: Path, tmp_path: Path
) -> None:
    """Each of two nodes has a writer with its actors; one is lost with all of them in mid-batch."""
    say(pace, "slow:1")
    second = add_node(cluster)
    run = start("--gemma-actors", "2", "--writers", "2", output="x.jsonl", address=cluster.address)
    parts = [tmp_path / f"x-0000{number}-of-00002.jsonl" for number in (1, 2)]
    assert run.wait_until(lambda: at_work(second) and all(part.exists() and part.stat().st_size for part in parts))
    assert all(len(titled(raylet_of(node), "ray::WriterActor")) == 1 for node in (home, second))
    cluster.remove_node(second, allow_graceful=False)
    before = [part.read_bytes() for part in parts]
    assert all(content in expected for content in before)
    say(pace, "")
    code, said, errors = run.finish()
    assert code == 0, errors
    assert all(part.read_bytes().startswith(content) for part, content in zip(parts, before, strict=True))
    assert b"".join(part.read_bytes() for part in parts) == expected
    assert re.search(r"The writer of part \d of 2 died and is replaced", errors)
    assert re.search(r"what \d lost writers? had under way", said)


@pytest.mark.usefixtures("home")
def test_a_full_cluster_ends_the_run_with_what_was_asked_for_and_what_there_is(cluster: Cluster, start: Start) -> None:
    hold = (
        "import ray, sys, time\n"
        f"ray.init({cluster.address!r}, log_to_driver=False)\n"
        "actor = ray.remote(num_cpus=1)(type('Holder', (), {'ready': lambda self: 1})).remote()\n"
        "ray.get(actor.ready.remote())\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, errors = start("--patience", "3", address=cluster.address).finish()
        assert other.stdin is not None
        other.stdin.close()
    assert code == 1
    assert re.search(
        r"no actor of gemma(, encoder 0-2)? could start: each asks for 1 CPU and 0 GPU; .* 1 CPU \(0 free\)", errors
    )
    assert "--patience" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_driver_whose_own_node_is_lost_says_so_and_goes_on_from_another(
    start: Start, expected: bytes, tmp_path: Path
) -> None:
    """The control store and the node with the actors live on, but nothing that the driver asks for would start."""
    pace = tmp_path / "fault"
    say(pace, "slow:1")
    with ray_cluster(pace, num_cpus=0, object_store_memory=STORE) as cluster:
        add_node(cluster)
        run = start(address=cluster.address)
        assert run.wait_until(lambda: run.size() > 0)
        raylet_of(cluster.head_node).kill()
        code, _, errors = run.finish()
        assert code == 1
        told = errors[errors.index("layerscope: ") :]
        assert told.startswith(
            "layerscope: Ray's own raylet on this machine, by which the run has its cluster, has died"
        )
        assert len(told.splitlines()) == 2
        left = run.output.read_bytes()
        assert 0 < len(left) < len(expected)
        assert expected.startswith(left)
        say(pace, "")
        code, _, errors = start(address=cluster.address).finish()
        assert code == 0, errors
        assert run.output.read_bytes() == expected
