"""The engine that a run uses: Ray's actors and references behind `interface.py`."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.engine.actors import WORKER_ENVIRONMENT, EncoderActor, GemmaActor
from layerscope.engine.cluster import nodes
from layerscope.engine.cluster.metrics import Metrics
from layerscope.engine.cluster.nodes import Nodes
from layerscope.engine.faults import understood
from layerscope.engine.interface import Handle, Reference
from layerscope.planning.node import Node
from layerscope.planning.placement import Seat


class RayEngine:
    """Actors on the Ray that this process is connected to.

    Args:
        known: what its nodes said so far.
        lost: whether Ray has died, and nothing may be asked of it any more.
    """

    def __init__(self, known: Nodes, lost: Callable[[], bool] = lambda: False) -> None:
        self._nodes, self._lost = known, lost
        self._metrics = Metrics()

    def now(self) -> float:
        return time.monotonic()

    def start(self, seat: Seat, node_id: str, accelerator: str, calls_at_once: int) -> Handle:
        options: dict[str, Any] = {
            "num_cpus": seat.share.num_cpus,
            "num_gpus": seat.share.num_gpus,
            "max_restarts": 0,  # the crew starts another: one place decides
            "max_concurrency": calls_at_once,
            "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
        }
        if accelerator:
            options["accelerator_type"] = accelerator
        if node_id:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=True)
        actor_class: Any = GemmaActor if seat.block is None else EncoderActor
        return actor_class.options(**options).remote()

    def end(self, handle: Handle) -> None:
        if not self._lost():
            ray.kill(handle)

    def submit(self, handle: Handle, method: str, arguments: Sequence[Any], returns: int = 1) -> list[Reference]:
        answer = getattr(handle, method).options(num_returns=returns).remote(*arguments)
        return [answer] if returns == 1 else answer

    def wait(self, references: Sequence[Reference], seconds: float) -> list[Reference]:
        if not references:
            time.sleep(seconds)  # every actor is left out; the crew will say so
            return []
        # Records are fetched to this node while others are waited for; activations are not waited for, and stay.
        answered, _ = ray.wait(list(references), num_returns=len(references), timeout=0)
        if not answered:
            answered, _ = ray.wait(list(references), num_returns=1, timeout=seconds)
        return list(answered)

    def fetch(self, reference: Reference) -> Any:
        try:
            return ray.get(reference)
        except Exception as error:
            raise understood(error) from None

    def measure(self, name: str, value: float, **labels: str) -> None:
        self._metrics.measure(name, value, **labels)

    def object_store_bytes(self) -> int:
        return nodes.object_store_bytes()

    def node_ids(self) -> set[str]:
        return nodes.alive_nodes()

    def leaving(self) -> set[str]:
        return nodes.draining_nodes()

    def usable_nodes(self) -> list[Node]:
        return self._nodes.usable()

    def resources(self) -> str:
        return nodes.resources()

    def launching(self) -> str:
        return nodes.launching()
