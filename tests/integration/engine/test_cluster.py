"""A run on a cluster whose nodes come, go, fill up and differ: it spreads, goes on, or says why it cannot."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from background import Start, actors_on, ray_cluster

STORE = 100 << 20


@pytest.fixture(scope="module")
def pace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says how many seconds a forward pass takes: a test acts while it is slow, and is done soon after."""
    return tmp_path_factory.mktemp("pace") / "seconds"


@pytest.fixture(scope="module")
def cluster(pace: Path) -> Iterator[Cluster]:
    """A head with one CPU."""
    with ray_cluster(fault=f"slow:{pace}", num_cpus=1, object_store_memory=STORE) as cluster:
        yield cluster


def add_node(cluster: Cluster, **resources: Any) -> Any:
    return cluster.add_node(**{"num_cpus": 1, "object_store_memory": STORE, **resources})


@pytest.mark.slow
def test_a_new_node_is_used_unasked_and_a_draining_one_gets_nothing_new(
    cluster: Cluster, start: Start, expected: bytes, pace: Path
) -> None:
    pace.write_text("3")
    run = start(address=cluster.address)
    assert run.wait_until(lambda: run.size() > 0)
    second = add_node(cluster)
    assert run.wait_until(lambda: any("score" in " ".join(p.cmdline()) for p in actors_on(second)))
    pace.write_text("0.3")
    accepted, reason = GcsClient(cluster.address).drain_node(
        second.node_id,
        autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "spot",
        int(time.time() + 60) * 1000,
    )
    assert accepted, reason
    assert run.wait_until(lambda: not actors_on(second)), "its Gemma actor ends what it has and leaves"
    cluster.remove_node(second, allow_graceful=False)
    pace.write_text("0")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert "joined the cluster" in errors
    assert "is about to leave the cluster: gemma #1 gets no new batch" in errors
    assert run.output.read_bytes() == expected


@pytest.mark.slow
def test_the_crew_is_placed_anew_when_what_is_left_cannot_hold_it(
    cluster: Cluster, start: Start, expected: bytes, pace: Path
) -> None:
    """With two threads each, Gemma asks for two CPUs; after the node that has them is lost, it makes do with one."""
    pace.write_text("1")
    large = add_node(cluster, num_cpus=2)
    run = start("--threads", "2", "--gemma-actors", "1", address=cluster.address)
    assert run.wait_until(lambda: run.size() > 0)
    assert actors_on(large)
    cluster.remove_node(large, allow_graceful=False)
    pace.write_text("0")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert "placed anew" in errors
    assert len(run.output.read_bytes().splitlines()) == len(expected.splitlines())


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
    assert re.search(r"no actor of gemma could start: each asks for 1 CPU and 0 GPU; .* 1 CPU \(0 free\)", errors)
    assert "--patience" in errors
    assert "Traceback" not in errors


def test_a_node_with_other_software_is_refused_by_name(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    other = tmp_path / "site" / "numpy-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(other.parent))
        node = add_node(cluster)
    try:
        code, _, errors = start(address=cluster.address).finish()
    finally:
        cluster.remove_node(node)
    assert code == 1
    assert "has numpy 1.0 and" in errors
    assert "same versions on every node" in errors


@pytest.mark.slow
def test_prometheus_sees_the_run_and_the_actors_log_what_they_do(
    cluster: Cluster, start: Start, expected: bytes, pace: Path
) -> None:
    pace.write_text("2")  # the run outlasts the exporter, which looks every ten seconds
    port = metrics_port(cluster)
    wanted = {"questions_total", "bytes_total", "tokens_total", "batch_seconds_count"}
    wanted |= {"queue_depth", "actors_ready", "in_flight_bytes"}

    def exported() -> Counter[tuple[str, str]]:
        """By metric and labels; the cluster's earlier runs are among them."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        found = re.findall(r"^ray_layerscope_(\w+)((?:\{.*\})?) ([\d.e+]+)$", text, re.MULTILINE)
        return Counter({(name, labels): float(value) for name, labels, value in found})  # type: ignore[misc]

    before = exported()
    run = start(address=cluster.address)
    seen: dict[str, float] = {}

    def told() -> bool:
        for (name, labels), value in exported().items():
            if value > before[name, labels]:
                seen[name] = value - before[name, labels]
        return wanted <= seen.keys()

    assert run.wait_until(told), wanted - seen.keys()
    pace.write_text("0")
    code, _, errors = run.finish()
    assert code == 0, errors
    assert 0 < seen["questions_total"] <= len(expected.splitlines())
    assert 0 < seen["bytes_total"] <= len(expected)
    lines = [
        json.loads(line)
        for log in Path(cluster.head_node.get_logs_dir_path()).glob("worker-*.err")
        for line in log.read_text().splitlines()
        if line.startswith("{")
    ]
    roles = {line["role"] for line in lines if line["event"] in ("score", "encode") and line["batch"] >= 0}
    assert roles == {"gemma", "encoder 0-1", "encoder 2"}
    assert all(line["node"] and line["pid"] and line["seconds"] >= 0 for line in lines)


def metrics_port(cluster: Cluster) -> int:
    """Of the head, which the driver is on; a node that an earlier test removed may still be listed as alive."""
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        (port,) = (node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == cluster.head_node.node_id)
        return int(port)
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_shards_one_after_the_other_are_the_whole_run_and_a_timeline_shows_who_worked(
    cluster: Cluster, start: Start, expected: bytes, pace: Path, tmp_path: Path
) -> None:
    pace.write_text("0")
    whole = b""
    for shard in ("1/2", "2/2"):
        run = start("--shard", shard, "--timeline", f"{shard[0]}.json", "--overwrite", address=cluster.address)
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
    refused, _, errors = start("--shard", "1/2", address=cluster.address).finish()
    assert refused == 2
    assert "shard was 2/2, is 1/2" in errors


def test_a_head_that_takes_no_work_and_a_cluster_that_adds_none_end_the_run(start: Start) -> None:
    with ray_cluster(num_cpus=0, object_store_memory=STORE) as cluster:
        code, _, errors = start("--patience", "2", address=cluster.address).finish()
    assert code == 1
    assert "No node of the cluster takes work" in errors
    assert "Traceback" not in errors
