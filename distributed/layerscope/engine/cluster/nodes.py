"""What the nodes of a Ray cluster have, as they come and go."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
import ray
from ray._private import ray_constants
from ray._private.state import state as cluster_state
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import GetTimeoutError, RayError
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.engine.actors import probe_node
from layerscope.engine.interface import EngineLost
from layerscope.errors import LayerscopeError, first_line
from layerscope.formatting import say
from layerscope.planning.node import Node

_PROBE_SECONDS = 60.0  # in which a node should have said what it has
_MAKING_SECONDS = 1800.0  # in which its environment may still be made; Ray gives up after ten minutes by default
_PROBE_AGAIN_SECONDS = 10.0  # after a probe that failed; twice as long after the next
_TYPE = "accelerator_type:"  # how Ray names the resource that says which GPUs a node has


def tell_on_stderr(text: str) -> None:
    say(text, sys.stderr)


@dataclass
class _Probe:
    """One node's probe, until it has answered."""

    reference: ray.ObjectRef[Node] | None
    begun: float
    failures: int = 0
    told: bool = False


class Nodes:
    """Asks every node once what it has, again where that failed, and remembers.

    Args:
        tell: is told of nodes that are slow to say, or cannot.
    """

    def __init__(self, tell: Callable[[str], None] = tell_on_stderr) -> None:
        self.tell = tell
        self.at_work = False
        """A run is on: one that joins and cannot run layerscope is left out, and does not end it."""
        self._unable = set[str]()
        self._probes: dict[str, _Probe] = {}
        self._found: dict[str, Node] = {}

    def usable(self, seconds: float = 0) -> list[Node]:
        """The nodes that can take work now: alive, not about to leave, and with CPUs or GPUs for it.

        Args:
            seconds: to wait for nodes that have not said yet what they have; the others are left out this time.

        Raises:
            LayerscopeError: layerscope cannot run on one of them.
        """
        deadline = time.monotonic() + seconds
        there = takers()
        self._unable &= there.keys()
        for node_id in self._probes.keys() | self._found.keys():
            if node_id not in there:
                self._probes.pop(node_id, None)
                self._found.pop(node_id, None)
        for node_id in there.keys() - self._found.keys() - self._unable:
            self._ask(node_id)
        for node_id, (address, _) in there.items():
            if node_id in self._probes:
                self._hear(node_id, address, deadline)
        return [_as_ray_sees_it(self._found[id_], id_, told) for id_, (_, told) in there.items() if id_ in self._found]

    def awaited(self) -> list[str]:
        """The addresses of nodes that may yet say what they have: their environment is being made."""
        there, now = takers(), time.monotonic()
        return [
            there[node_id][0]
            for node_id, probe in self._probes.items()
            if node_id in there and probe.reference is not None and now - probe.begun < _MAKING_SECONDS
        ]

    def _ask(self, node_id: str) -> None:
        now = time.monotonic()
        probe = self._probes.setdefault(node_id, _Probe(None, now))
        pause = _PROBE_AGAIN_SECONDS * 2 ** min(probe.failures - 1, 6) if probe.failures else 0
        if probe.reference is None and now - probe.begun >= pause:
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            probe.reference, probe.begun = probe_node.options(scheduling_strategy=here).remote(), now

    def _hear(self, node_id: str, address: str, deadline: float) -> None:
        """Takes a node's answer if it is there before the deadline."""
        probe = self._probes[node_id]
        if probe.reference is None:
            return  # it failed, and will be asked again in a while
        try:
            self._found[node_id] = ray.get(probe.reference, timeout=max(0, deadline - time.monotonic()))
        except GetTimeoutError:
            if time.monotonic() - probe.begun >= _PROBE_SECONDS and not probe.told:
                probe.told = True
                self.tell(
                    f"The node at {address} has not said what it has for {_PROBE_SECONDS:.0f} s (its environment may "
                    "still be made): it is used as soon as it has."
                )
        except (ImportError, RayError) as error:
            if isinstance(error, ImportError) or "ModuleNotFoundError" in str(error):
                self._leave_out(node_id, address, error)
                return
            probe.reference, probe.failures = None, probe.failures + 1
            if node_id in takers():  # else it left in this moment
                self.tell(f"The node at {address} cannot be used yet and is asked again: {first_line(error)}")
        else:
            del self._probes[node_id]

    def _leave_out(self, node_id: str, address: str, error: Exception) -> None:
        """Forgets a node on which layerscope cannot run.

        Raises:
            LayerscopeError: before there is a run, so that it is not computed on fewer nodes than was meant.
        """
        if not self.at_work:
            raise LayerscopeError(
                f"A node of the cluster cannot run layerscope: {_missing_module(error)}\n"
                "Install the same version on every node; distributed/docs/cluster.md says how."
            ) from error
        del self._probes[node_id]
        self._unable.add(node_id)
        self.tell(f"The node at {address} joined the cluster and is left out: {_missing_module(error)}")


def takers() -> dict[str, tuple[str, dict[str, float]]]:
    """The nodes that take work, by Ray's id: address and resources; raises EngineLost as `alive_nodes` does."""
    leaving = draining_nodes()
    return {
        node_id: (node["NodeManagerAddress"], node["Resources"])
        for node_id, node in _alive().items()
        if node_id not in leaving and {"CPU", "GPU"} & set(node["Resources"])
    }


def alive_nodes() -> set[str]:
    """Ray's ids of the nodes that are there.

    Raises:
        EngineLost: this process's own is not among them, without which it starts nothing and hears of nothing.
    """
    return set(_alive())


def _alive() -> dict[str, dict[str, Any]]:
    there = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    if ray.get_runtime_context().get_node_id() not in there:
        raise EngineLost(
            "Ray's own raylet on this machine, by which the run has its cluster, has died: somebody ended it, or the "
            "memory was too small.\n"
            "What is in the file is whole; start Ray here again (ray start --address=…), and run again to go on."
        )
    return there


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
    return int(_alive()[ray.get_runtime_context().get_node_id()]["Resources"]["object_store_memory"])


def _as_ray_sees_it(node: Node, node_id: str, told: dict[str, float]) -> Node:
    """What a node has, as far as Ray may give it out; started in a Slurm job or by taskset, Ray gives out too much."""
    types = [name.removeprefix(_TYPE) for name in told if name.startswith(_TYPE)]
    return replace(
        node,
        cpus=int(told.get("CPU", 0)),
        allowed=node.cpus,
        gpus=node.gpus[: int(told.get("GPU", 0))],
        identity=node_id,
        accelerator=types[0] if types else "",
    )


def _missing_module(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "No module named" in line]
    return (lines or [first_line(error)])[-1][:200]
