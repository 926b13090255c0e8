"""The cluster: a head for the driver, and nodes with GPUs that are not there."""

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import Any, NamedTuple
from unittest.mock import patch

import psutil
import ray
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from layerscope.engine.cluster import nodes
from layerscope.planning.node import Gpu, Node
from simulation.measuring import cpu_of

GPU = Gpu("simulated", 80 << 30)
_LOOK_SECONDS = 0.5


@contextmanager
def simulated_cluster(options: argparse.Namespace, store: int) -> Iterator["Nodes"]:
    """A Ray cluster on this machine, as yet without nodes to work on, joined by this process."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
    if options.one_node:
        head |= {"num_cpus": 1, "num_gpus": options.gpus_per_node}
    with _ended_by_sigterm():
        ray_cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            ray.init(ray_cluster.address, namespace="simulation", log_to_driver=False, logging_level=logging.ERROR)
            yield Nodes(ray_cluster, options.gpus_per_node, store, int(options.one_node))
        finally:
            ray.shutdown()
            ray_cluster.shutdown()


def _ended_by_sigterm() -> AbstractContextManager[object]:
    """Whoever started Ray's head outlives a SIGTERM by half a minute of drain, for the good of nodes that go on; here
    all of them go."""
    return patch("ray._private.ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 0)


class SimulatedGpus(nodes.Nodes):
    """What the nodes have: real, but for the GPUs, of which there are as many as Ray was told."""

    def usable(self, seconds: float = 0) -> list[Node]:
        told = nodes.takers()
        return [
            replace(node, gpus=(GPU,) * int(told[node.identity][1].get("GPU", 0)))
            for node in super().usable(seconds)
            if node.identity in told
        ]


class Readings(NamedTuple):
    """CPU seconds of Ray's own processes so far."""

    head_raylet: float
    raylets: float
    gcs: float


class Store(NamedTuple):
    """A node's object store, in bytes."""

    used: int
    size: int
    spilled: int
    """So far, to the disk."""


@dataclass
class Watch:
    """What the object stores of the nodes came to in a run."""

    fullest: float = 0.0
    """The largest share of one that was in use."""
    spilled: int = 0
    """Bytes, to the disk, of all."""
    cpu: float = 0.0
    """Seconds that it took to look."""


def _process(node: Any, name: str) -> psutil.Process:
    (one,) = node.all_processes[name]
    return psutil.Process(one.process.pid)


class Nodes:
    """The nodes of the cluster with GPUs; more are added from run to run."""

    def __init__(self, ray_cluster: Cluster, gpus: int, store: int, n: int) -> None:
        self._cluster, self._gpus, self._store = ray_cluster, gpus, store
        self._n, self._n_late = n, 0

    def __len__(self) -> int:
        return self._n

    def grow(self, gpus: int, late: float) -> None:
        """Adds nodes until there are so many GPUs, but for a share of the new nodes, which is to join late."""
        new = max(0, -(-gpus // self._gpus) - self._n)
        self._n_late = min(round(late * new), self._n + new - 1)
        self._add(new - self._n_late)
        self._cluster.wait_for_nodes()

    def let_late_nodes_join(self) -> None:
        self._add(self._n_late, resources={"late": 1})
        self._n_late = 0

    def readings(self) -> "Readings":
        """Of Ray's own processes, as they are now."""
        raylets = [cpu_of(_process(node, "raylet")) for node in self._cluster.list_all_nodes()]
        head = self._cluster.head_node
        return Readings(cpu_of(_process(head, "raylet")), sum(raylets), cpu_of(_process(head, "gcs_server")))

    def stores(self) -> list[Store]:
        """What the object stores of the nodes hold."""
        found = []
        for node in ray.nodes():
            if node["Alive"]:
                told = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
                found.append(
                    Store(told.object_store_bytes_used, told.object_store_bytes_avail, told.spilled_bytes_total)
                )
        return found

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        """Looks at the stores twice a second."""
        watch, before, over = Watch(), sum(store.spilled for store in self.stores()), Event()

        def look() -> None:
            while not over.wait(_LOOK_SECONDS):
                stores = self.stores()
                watch.fullest = max([watch.fullest, *(store.used / store.size for store in stores)])
                watch.spilled = sum(store.spilled for store in stores) - before
                watch.cpu = time.thread_time()

        thread = Thread(target=look)
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()

    def _add(self, n: int, **options: Any) -> None:
        for _ in range(n):
            self._cluster.add_node(
                wait=False, num_cpus=1, num_gpus=self._gpus, object_store_memory=self._store, **options
            )
        self._n += n
