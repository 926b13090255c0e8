"""Joining a running Ray cluster or starting one on this machine; what its nodes have, as they come and go."""

import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.state import state as cluster_state
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.config import Config
from layerscope.engine.actors import probe_node
from layerscope.errors import LayerscopeError, UsageError, first_line
from layerscope.planning.machine import probe
from layerscope.planning.node import Node

_OBJECT_STORE_BYTES = 2 << 30
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 60.0
_POLL_SECONDS = 2.0
_TYPE = "accelerator_type:"  # how Ray names the resource that says which GPUs a node has
_probing: dict[str, ray.ObjectRef[Node]] = {}
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
# What Ray prints of an object whose batch was given up is no news: the driver runs the batch again.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
# An actor that asks for no GPU sees none, so that a run on CPUs leaves the GPUs of its nodes alone.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def nodes(config: Config) -> list[Node]:
    """The nodes of the cluster that `--address` names, joining it; or this machine, where none is running.

    Where no node of a cluster can take work yet, it waits for the first that the cluster adds.

    Raises:
        UsageError: the address is not one.
        LayerscopeError: there is no cluster at the address, none of its nodes takes work, or their software differs.
    """
    address = config.address
    wanted = _running() if address == "auto" else None if address == "local" else address
    if wanted is None:
        return [probe()]
    _check_reachable(wanted)
    _show_token(wanted)
    try:
        ray.init(address=wanted, **_QUIET)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise LayerscopeError(
            f"The Ray cluster at {wanted} cannot be joined: {first_line(error)}\n"
            "Check that it runs the same versions of Ray and Python, or use --address local."
        ) from error
    found = _first_nodes(config)
    _check_software(found)
    return found


def _first_nodes(config: Config) -> list[Node]:
    """Usable nodes, asking a cluster that scales itself for the first one."""
    found = usable_nodes()
    needs_gpu = config.device == "cuda" or bool(config.gpu_type)

    def suffices() -> bool:
        return any(node.gpus for node in found) if needs_gpu else bool(found)

    if suffices():
        return found
    asked = "CPU" if config.device == "cpu" else "GPU"
    request_resources(bundles=[{asked: 1}])
    try:
        patient_until = time.monotonic() + config.patience
        told = ""
        while not suffices():
            launched = launching()
            if launched and launched != told:
                told = launched
                print(f"Waiting for the cluster's first node to work on: {launched}", file=sys.stderr, flush=True)
            if launched:
                patient_until = time.monotonic() + config.patience
            elif time.monotonic() > patient_until:
                raise LayerscopeError(
                    f"No node of the cluster takes work (a {asked} was asked for), and it is adding "
                    f"none.\nIt has {resources()}. Add a node with one, or use --device cpu or --address local."
                )
            time.sleep(_POLL_SECONDS)
            found = usable_nodes()
    finally:
        request_resources(bundles=[])  # a request outlives its job, and its nodes would never be idle
    return found


def usable_nodes(wait: bool = True) -> list[Node]:
    """The nodes that can take work now: alive, not about to leave, and with CPUs or GPUs for it.

    Args:
        wait: for nodes that have not said yet what they have; else those are left out this time.

    Raises:
        LayerscopeError: layerscope cannot run on one of them.
    """
    leaving = draining_nodes()
    there = {
        node["NodeID"]: node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving and {"CPU", "GPU"} & set(node["Resources"])
    }
    for node_id in there:
        if node_id not in _probing:
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            _probing[node_id] = probe_node.options(scheduling_strategy=here).remote()
    found = []
    for node_id, resources_told in there.items():
        try:
            node = ray.get(_probing[node_id], timeout=_PROBE_SECONDS if wait else 0)
        except GetTimeoutError:
            continue
        except (ImportError, RayError) as error:
            if isinstance(error, ImportError) or "ModuleNotFoundError" in str(error):
                raise LayerscopeError(
                    f"A node of the cluster cannot run layerscope: {_missing_module(error)}\n"
                    "Install the same version on every node; distributed/docs/cluster.md says how."
                ) from error
            continue  # it left in this moment
        found.append(_as_ray_sees_it(node, node_id, resources_told))
    return found


def _as_ray_sees_it(node: Node, node_id: str, told: dict[str, float]) -> Node:
    """What a node has, as far as Ray may give it out."""
    types = [name.removeprefix(_TYPE) for name in told if name.startswith(_TYPE)]
    return replace(
        node,
        cpus=int(told.get("CPU", 0)),
        gpus=node.gpus[: int(told.get("GPU", 0))],
        identity=node_id,
        accelerator=types[0] if types else "",
    )


def alive_nodes() -> set[str]:
    """Ray's ids of the nodes that are there."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def draining_nodes() -> set[str]:
    """Ray's ids of the nodes that are about to leave, because they are preempted or idle."""
    return set(cluster_state.get_draining_nodes())


def launching() -> str:
    """What the cluster's own autoscaler is adding, for people; empty where it adds nothing, or there is none."""
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        launches = [f"{launch.count} x {launch.ray_node_type_name}" for launch in status.pending_launches]
        starting = [f"{node.ray_node_type_name} at {node.ip_address}" for node in status.pending_nodes]
        failed = [f"{launch.ray_node_type_name} failed and is tried again" for launch in status.failed_launches]
        if told := [*launches, *starting, *failed]:
            return ", ".join(told)
        # The older autoscaler writes what it does into the cluster's key-value store.
        report = orjson.loads(_internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS) or b"{}").get(
            "autoscaler_report"
        )
    except (RayError, RuntimeError, ValueError):
        return ""
    pending = (report or {}).get("pending_launches", {})
    starting = [str(kind) for _, kind, *_ in (report or {}).get("pending_nodes", [])]
    return ", ".join([*(f"{count} x {kind}" for kind, count in pending.items()), *starting])


def resources() -> str:
    """What the cluster has in all, and what is free of it."""
    there, free = ray.cluster_resources(), ray.available_resources()
    return ", ".join(f"{there.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in ("CPU", "GPU"))


def object_store_bytes() -> int:
    """The object store of this process's node, in which every finished record comes to lie."""
    here = ray.get_runtime_context().get_node_id()
    return next(int(node["Resources"]["object_store_memory"]) for node in ray.nodes() if node["NodeID"] == here)


def _check_software(found: Sequence[Node]) -> None:
    """All nodes that work have the same versions, and this process the same but for torch's build.

    Raises:
        LayerscopeError: they differ; numbers would too, within one file.
    """
    here = {name: version.partition("+")[0] for name, version in probe().software}
    for node in found:
        for (name, version), (_, first) in zip(node.software, found[0].software, strict=True):
            if version != first or version.partition("+")[0] != here[name]:
                other, there = (found[0].name, first) if version != first else ("this machine", here[name])
                raise LayerscopeError(
                    f"{node.name} has {name} {version} and {other} has {there}: they may compute other numbers.\n"
                    "Install the same versions on every node."
                )


def _missing_module(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "No module named" in line]
    return (lines or [first_line(error)])[-1][:200]


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


def _show_token(address: str) -> None:
    """Switches this process to token authentication where the cluster wants it: Ray itself tries for half a minute.

    Raises:
        LayerscopeError: the cluster wants a token, and there is none here or another one.
    """
    for enable in (maybe_enable_token_auth_if_token_available, None):
        try:
            GcsClient(address=address)
        except AuthenticationError as error:
            if enable is None or not enable(warn_if_disabled=False):
                raise LayerscopeError(
                    f"The Ray cluster at {address} wants its token, which is not here (or another one is).\n"
                    "Put it into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH."
                ) from error
        except (RayError, RuntimeError):
            return  # joining will say what is wrong
        else:
            return


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
