"""Writers as Ray actors: each with an engine that sees its share of the machines and no others."""

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from layerscope.engine.actors import WORKER_ENVIRONMENT
from layerscope.engine.cluster.nodes import Nodes
from layerscope.engine.cluster.ray_engine import RayEngine
from layerscope.engine.interface import Handle
from layerscope.engine.writers.writer import News, Outcome, Task, Writer
from layerscope.planning.node import Node
from layerscope.planning.shares import Share
from layerscope.records.reading.parts import as_it_lies
from layerscope.records.storage.addresses import is_address

_NEWS_SECONDS = 0.5  # that a writer waits before it says how far it is
_CALLS_AT_ONCE = 4  # its work, a question for news, and what it is told meanwhile
# What Ray prints of an object whose batch was given up is no news, in a writer as little as in a driver.
_ENVIRONMENT = {**WORKER_ENVIRONMENT, "RAY_IGNORE_UNHANDLED_ERRORS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}


class Place(NamedTuple):
    """Where a writer is."""

    node_id: str
    node_name: str
    sees_the_run: bool
    """Its folder of the output file is the head's."""


class ShareEngine(RayEngine):
    """Actors on the nodes of a share."""

    def __init__(self, share: Share) -> None:
        super().__init__(Nodes())
        self._share, self._usable = share, list(share.nodes)

    def use(self, usable: Sequence[Node]) -> None:
        """Has other nodes from now on."""
        self._usable = list(usable)

    def object_store_bytes(self) -> int:
        return super().object_store_bytes() // self._share.writers_here

    def node_ids(self) -> set[str]:
        there, own = super().node_ids(), {node.identity for node in self._usable}
        return there if "" in own else there & own

    def usable_nodes(self) -> list[Node]:
        there = self.node_ids() - self.leaving()
        return [node for node in self._usable if node.identity in there]


class WriterProcess:
    """A writer, as the process of its actor has it."""

    def __init__(self) -> None:
        self._writer = Writer()
        self._engine: ShareEngine | None = None

    def begin(self, run: Path, manifest: bytes) -> Place:
        """Says where it is.

        Args:
            run: of parts.
            manifest: as it lies where the head is.
        """
        here = ray.get_runtime_context().get_node_id()
        return Place(here, socket.gethostname(), as_it_lies(run) == manifest)

    def run(self, task: Task, share: Share) -> Outcome:
        """Writes a part until it is finished or stopped."""
        self._engine = engine = self.engine_of(share)
        if not is_address(records := task.job.output.records):
            records.parent.mkdir(parents=True, exist_ok=True)
        return self._writer.run(task, engine)

    def engine_of(self, share: Share) -> ShareEngine:
        """Who starts the actors of a share."""
        return ShareEngine(share)

    def news(self) -> News:
        """How far it is, after a moment."""
        time.sleep(_NEWS_SECONDS)
        return self._writer.news()

    def use(self, usable: Sequence[Node]) -> None:
        """Has other nodes for its actors from now on."""
        if self._engine is not None:
            self._engine.use(usable)

    def stop(self) -> None:
        """Has it come to an end."""
        self._writer.stop()


@ray.remote
class WriterActor(WriterProcess):
    """A writer in a process of its own."""


def start_writer(node_id: str) -> Handle:
    """Asks for a writer.

    Args:
        node_id: where; anywhere if empty.
    """
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_restarts": 0,  # the head starts another: one place decides
        "max_concurrency": _CALLS_AT_ONCE,
        "runtime_env": {"env_vars": _ENVIRONMENT},
    }
    if node_id:
        # Ray takes a soft wish of an actor that asks for no CPU for none at all.
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor: Any = WriterActor
    return actor.options(**options).remote()
