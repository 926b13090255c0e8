"""Joining a running Ray cluster or starting one on this machine, and what its nodes have."""

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.actors import probe_node
from layerscope.errors import LayerscopeError, UsageError
from layerscope.machine import probe
from layerscope.placement import Node

_OBJECT_STORE_BYTES = 2 << 30
_CONNECT_SECONDS = 5.0
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
# What Ray prints of an object whose batch was given up is no news: the driver runs the batch again.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
# An actor that asks for no GPU sees none, so that a run on CPUs leaves the GPUs of its nodes alone.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def nodes(address: str) -> list[Node]:
    """The nodes of the cluster that `--address` names, joining it; or this machine, where none is running.

    Raises:
        UsageError: the address is not one.
        LayerscopeError: there is no cluster at the address.
    """
    wanted = _running() if address == "auto" else None if address == "local" else address
    if wanted is None:
        return [probe()]
    _check_reachable(wanted)
    try:
        ray.init(address=wanted, **_QUIET)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise LayerscopeError(
            f"The Ray cluster at {wanted} cannot be joined: {str(error).splitlines()[0][:200]}\n"
            "Check that it runs the same versions of Ray and Python, or use --address local."
        ) from error
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    probes = [
        probe_node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in alive
    ]
    return list(ray.get(probes))


def _running() -> str | None:
    """The address of the cluster that this machine belongs to, as `ray start` left it; None where none answers."""
    told = os.environ.get("RAY_ADDRESS", "auto")
    if told != "auto":
        return told if told != "local" else None
    left = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    address = left.read_text().strip() if left.is_file() else ""
    try:
        _check_reachable(address)
    except LayerscopeError:
        return None  # none was started, or it is gone and its file is a leftover
    return address


def _check_reachable(address: str) -> None:
    """Ray itself tries an address that does not answer for many minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise UsageError(
            f"--address is {address!r}; it is auto, local, or HOST:PORT of a Ray cluster (often port 6379)."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise LayerscopeError(
            f"No Ray cluster answers at {address}: {error}.\n"
            "Check the address, or use --address local to run on this machine alone."
        ) from error


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
