"""Runs in the background, to be watched and attacked, and a Ray cluster of several nodes on this machine."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from paths import FAULTS

OUTPUT = "out.jsonl"


class Run:
    """A run in the background, in `folder`."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.output = folder / OUTPUT

    def size(self) -> int:
        return self.output.stat().st_size if self.output.exists() else 0

    def wait_until(self, happened: Callable[[], bool], seconds: float = 90) -> bool:
        """Polls; false once the run is over."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds} s the file has {self.size()} bytes")
            time.sleep(0.005)
        return True

    def actors(self, title: str) -> list[psutil.Process]:
        """Processes below the run whose title, which Ray sets to what an actor does, begins so."""
        return titled(psutil.Process(self.process.pid), title)

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=200)
        return self.process.returncode, out, err


def titled(root: psutil.Process, title: str) -> list[psutil.Process]:
    found = []
    for process in root.children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


Start = Callable[..., Run]


@contextmanager
def ray_cluster(fault: str | None = None, **head: int) -> Iterator[Cluster]:
    """A Ray cluster of several nodes on this machine, which notices a lost node quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "5")
        if fault:
            patch.setenv("PYTHONPATH", str(FAULTS))
            patch.setenv("LAYERSCOPE_FAULT", fault)
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
        try:
            yield cluster
        finally:
            cluster.shutdown()


def actors_on(node: object) -> list[psutil.Process]:
    """The Gemma actors on a node of the cluster."""
    (raylet,) = node.all_processes["raylet"]  # type: ignore[attr-defined]
    return titled(psutil.Process(raylet.process.pid), "ray::GemmaActor")
