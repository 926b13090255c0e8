"""Runs in the background, to be watched and attacked, and Ray clusters on this machine for them."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray._private.node import Node
from ray.cluster_utils import Cluster

import forked_workers
from paths import FAULTS

OUTPUT = "out.jsonl"
_GLANCE = 0.1  # seconds between two looks: to look through the machine's processes takes some milliseconds


def faulty(fault: str | Path) -> dict[str, str]:
    """The environment of a process whose model, and that of whatever it starts, has a fault: as
    `faults/sitecustomize.py` says, or as a file says that may change meanwhile."""
    return {
        "PYTHONPATH": os.pathsep.join([str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "LAYERSCOPE_FAULT": str(fault),
    }


METRICS_EACH_SECOND = {"RAY_metrics_report_interval_ms": "1000"}
# Nobody reads logs here while they are written, and no cloud has nodes for this cluster.
_NO_WATCHERS = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}


class Run:
    """A run in the background, which writes `output`; its actors are below `root`, or itself with a Ray of its own."""

    def __init__(self, process: subprocess.Popen[str], output: Path, root: psutil.Process | None = None) -> None:
        self.process = process
        self.output = output
        self._shared = root

    def size(self) -> int:
        return self.output.stat().st_size if self.output.exists() else 0

    def wait_until(self, happened: Callable[[], bool], seconds: float = 240, glance: float = _GLANCE) -> bool:
        """Polls every `glance` seconds; false once the run is over."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds} s the file has {self.size()} bytes")
            time.sleep(glance)
        return True

    def actors(self, title: str) -> list[psutil.Process]:
        """Processes of the run whose title, which Ray sets to what an actor does, begins so."""
        return titled(self._shared or psutil.Process(self.process.pid), title)

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=400)
        return self.process.returncode, out, err

    def end(self) -> None:
        """Kills it if it is alive, and what Ray, which takes its time, still has of its actors on a cluster for all."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        while self._shared and (left := self.actors("ray::GemmaActor") + self.actors("ray::EncoderActor")):
            for actor in left:
                with suppress(psutil.NoSuchProcess):
                    actor.kill()
            psutil.wait_procs(left, timeout=5)


def titled(root: psutil.Process, title: str) -> list[psutil.Process]:
    found = []
    for process in [*root.children(recursive=True), *_forked_for(root)]:
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _forked_for(raylet: psutil.Process) -> list[psutil.Process]:
    """Workers of a cluster of the tests, which are not their raylet's children."""
    if forked_workers.FOLDER not in os.environ:
        return []
    process_id, folder = forked_workers.forking()
    forked = psutil.Process(process_id).children()
    return [worker for worker in forked if (folder / str(raylet.pid) / str(worker.pid)).exists()]


Start = Callable[..., Run]


def _no_api_server(node: Node, **_: object) -> None:
    """In place of the process that Ray starts even for a head without a dashboard."""
    node._webui_url = None


class _Cluster(Cluster):
    """Its workers are forks, which begin in a tenth of the time."""

    def add_node(self, wait: bool = True, **node: Any) -> Node:
        return super().add_node(wait, setup_worker_path=forked_workers.__file__, **node)


@contextmanager
def ray_cluster(fault: str | Path = "", exporter: bool = False, **head: int) -> Iterator[Cluster]:
    """A Ray cluster of several nodes on this machine, which notices a lost node quickly.

    Args:
        exporter: whether each node's metrics can be asked for; its agent takes some seconds more to begin then.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "5")
        for name, value in (METRICS_EACH_SECOND | (faulty(fault) if fault else {})).items():
            patch.setenv(name, value)
        patch.setattr(Node, "start_api_server", _no_api_server)
        if not exporter:
            patch.setattr("ray._private.utils.get_dashboard_dependency_error", lambda: ImportError("not asked for"))
        patch.setenv(forked_workers.FOLDER, str(forked_workers.forking().folder))
        cluster = _Cluster(initialize_head=True, head_node_args={**_NO_WATCHERS, **head})
        try:
            yield cluster
        finally:
            cluster.shutdown()


@dataclass(frozen=True)
class SharedRay:
    """A cluster that runs of many tests join, one after the other."""

    address: str
    raylet: psutil.Process
    fault_file: Path
    metrics: str
    """Where Ray's exporter of the node answers Prometheus."""
    logs: Path

    def set_fault(self, fault: str) -> None:
        """What is wrong from now on with the model of every run there: as `faults/sitecustomize.py` says."""
        say(self.fault_file, fault)


@contextmanager
def shared_ray(fault_file: Path, exporter: bool = False) -> Iterator[SharedRay]:
    """One node with four CPUs, whatever the machine has; with an `exporter` its `metrics` can be asked for."""
    say(fault_file, "")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    store = 200 << 20
    cluster_with = ray_cluster(fault_file, exporter, num_cpus=4, object_store_memory=store, metrics_export_port=port)
    with cluster_with as cluster:
        head = cluster.head_node
        logs = Path(head.get_logs_dir_path())
        yield SharedRay(cluster.address, raylet_of(head), fault_file, f"http://127.0.0.1:{port}/metrics", logs)


def say(file: Path, text: str) -> None:
    """Writes a file that is read all the time: never half."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.replace(file)


def raylet_of(node: object) -> psutil.Process:
    (raylet,) = node.all_processes["raylet"]  # type: ignore[attr-defined]
    return psutil.Process(raylet.process.pid)


def actors_on(node: object) -> list[psutil.Process]:
    """The Gemma actors on a node of the cluster."""
    return titled(raylet_of(node), "ray::GemmaActor")
