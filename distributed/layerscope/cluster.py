"""Joining a running Ray cluster or starting one on this machine, and what its nodes have."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.actors import probe_node
from layerscope.errors import LayerscopeError
from layerscope.machine import probe
from layerscope.placement import Node

_OBJECT_STORE_BYTES = 2 << 30
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
# What Ray prints of an object whose batch was given up is no news: the driver runs the batch again.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
# Ray counts idle GPUs by hiding them from actors that ask for none, which is what a CPU run wants.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def nodes(address: str) -> list[Node]:
    """The nodes of the cluster that `--address` names, joining it; or this machine, where none is running.

    Raises:
        LayerscopeError: there is no cluster at the address.
    """
    if address == "local":
        return [probe()]
    try:
        ray.init(address=address, **_QUIET)
    except ConnectionError as error:
        if address == "auto":
            return [probe()]
        raise LayerscopeError(
            f"There is no Ray cluster at {address}: {str(error).splitlines()[0][:200]}.\n"
            "Check the address, or use --address local to run on this machine alone."
        ) from error
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    probes = [
        probe_node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in alive
    ]
    return list(ray.get(probes))


@contextmanager
def started(cpus: float) -> Iterator[None]:
    """A Ray that actors can be started on: the one joined by `nodes`, or one of this process's own; left at the end.

    Args:
        cpus: what Ray's own is told to have, so that every actor asked for starts; threads decide what they use.
    """
    try:
        if not ray.is_initialized():
            _start_local(math.ceil(cpus))
        yield
    finally:
        ray.shutdown()


def _start_local(cpus: int) -> None:
    # Ray listens on every interface of a Linux machine. What it does on a Mac is right for a run of one machine:
    # the loopback alone. Its own processes read the variable; this one has read it already.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=min(_OBJECT_STORE_BYTES, probe().memory // 4),
            **_QUIET,
        )
    except OSError as error:
        raise LayerscopeError(
            f"Ray cannot start on this machine: {error}.\n"
            "It keeps files in ~/.ray and in /tmp/ray (or RAY_TMPDIR); both must be writable."
        ) from error
