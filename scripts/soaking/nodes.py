"""The Ray under a soak: a local cluster of several raylets, any of which is killed, and another takes its place."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psutil
from ray.cluster_utils import Cluster

_STORE = 150 << 20
_CPUS = 4
_NOTICED = {"initial_delay_ms": "1000", "period_ms": "1000", "failure_threshold": "5"}
"""How fast the control store sees that a node is gone."""


class Nodes:
    """One that takes no work, to begin with the head, which drivers prefer; and those that take it."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._cluster = cluster
        self._there = [cluster.head_node, *(self._new(_CPUS) for _ in range(number))]
        self.address = str(cluster.address)

    def kill_one(self, dice: random.Random) -> None:
        """SIGKILL for the raylet of one, and with it whatever runs there; another takes its place."""
        index = dice.randrange(len(self._there))
        old = self._there[index]
        raylet_of(old).kill()
        if old is not self._cluster.head_node:  # which has the control store too
            self._cluster.remove_node(old, allow_graceful=False)
        self._there[index] = self._new(_CPUS if index else 0)

    def _new(self, cpus: int) -> Any:
        return self._cluster.add_node(wait=False, num_cpus=cpus, object_store_memory=_STORE)


@contextmanager
def local_cluster(number: int) -> Iterator[Nodes]:
    """A cluster of so many nodes beside its head."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE}
    with (
        patch.dict(os.environ, {f"RAY_health_check_{name}": value for name, value in _NOTICED.items()}),
        # Nobody asks for metrics, without which a node's agent is there much sooner.
        patch("ray._private.utils.get_dashboard_dependency_error", lambda: ImportError("not asked for")),
    ):
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes = Nodes(cluster, number)
            cluster.wait_for_nodes()
            yield nodes
        finally:
            cluster.shutdown()


def raylet_of(node: Any) -> psutil.Process:
    (raylet,) = node.all_processes["raylet"]
    return psutil.Process(raylet.process.pid)
