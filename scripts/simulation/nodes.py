"""The cluster: a head for the driver, and nodes with GPUs that are not there."""

import argparse
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import psutil
import ray
from ray.cluster_utils import Cluster

from layerscope.engine import nodes
from layerscope.planning.node import Gpu, Node

GPU = Gpu("simulated", 80 << 30)


@contextmanager
def simulated_cluster(options: argparse.Namespace, store: int) -> Iterator["Nodes"]:
    """A Ray cluster on this machine, as yet without nodes to work on, joined by this process."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
    if options.one_node:
        head |= {"num_cpus": 1, "num_gpus": options.gpus_per_node}
    with _ended_by_sigterm():
        ray_cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            ray.init(address=ray_cluster.address, log_to_driver=False, logging_level=logging.ERROR)
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

    def head_raylet(self) -> psutil.Process:
        (raylet,) = self._cluster.head_node.all_processes["raylet"]
        return psutil.Process(raylet.process.pid)

    def _add(self, n: int, **options: Any) -> None:
        for _ in range(n):
            self._cluster.add_node(
                wait=False, num_cpus=1, num_gpus=self._gpus, object_store_memory=self._store, **options
            )
        self._n += n
