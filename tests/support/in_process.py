"""The actors in the tests' own process: real model, real encoders, real records, and no Ray, which takes seconds a run.

For what a run does with its actors' answers. That they are processes, which die, is for tests with a real Ray.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from layerscope.config import Config
from layerscope.engine.actors import EncoderActor, GemmaActor
from layerscope.engine.batches.answers import Arrival
from layerscope.engine.faults import understood
from layerscope.engine.writers.writer import Writer
from layerscope.planning.machine import probe
from layerscope.planning.node import Node
from layerscope.planning.placement import Seat


class Reference:
    """Stands for a value, or for an exception, that is there already."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Actor:
    """An actor's own methods, called at once."""

    def __init__(self, kind: Any, node: Node) -> None:
        self._actor = kind.__ray_metadata__.modified_class()
        self._node = node

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        if method == "begin":
            return Arrival(self._node, self._node.identity, 0)
        return getattr(self._actor, method)(*arguments)


class WriterHere:
    """A writer of a run of parts in a thread, so that it is told to stop while it writes."""

    def __init__(self) -> None:
        self._writer, self._thread = Writer(), ThreadPoolExecutor(1)

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        if method == "begin":
            return "here", "here", True
        if method == "run":
            task, share = arguments
            return self._thread.submit(self._writer.run, task, InProcess(share.nodes[0]))
        if method == "news":
            time.sleep(0.01)
        return getattr(self._writer, method)()


@dataclass
class InProcess:
    """An engine of one node, whose actors answer before `submit` returns."""

    node: Node
    measured: dict[str, float] = field(default_factory=dict)

    def now(self) -> float:
        return time.monotonic()

    def start(self, seat: Seat, *_: Any) -> Actor:
        return Actor(GemmaActor if seat.block is None else EncoderActor, self.node)

    def end(self, handle: Actor | WriterHere) -> None:
        if isinstance(handle, WriterHere):
            handle.call("stop", ())

    def submit(
        self, handle: Actor | WriterHere, method: str, arguments: Sequence[Any], returns: int = 1
    ) -> list[Reference]:
        try:
            given = [one.value if isinstance(one, Reference) else one for one in arguments]
            for one in given:
                if isinstance(one, Exception):
                    raise one
            answer = handle.call(method, given)
        except Exception as error:
            answer = understood(error)
        failed = isinstance(answer, Exception)
        return [Reference(answer if failed or returns == 1 else answer[index]) for index in range(returns)]

    def wait(self, references: Sequence[Reference], seconds: float) -> list[Reference]:  # noqa: ARG002
        return [each for each in references if not isinstance(each.value, Future) or each.value.done()]

    def fetch(self, reference: Reference) -> Any:
        if isinstance(reference.value, Future):
            return reference.value.result()
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def measure(self, name: str, value: float, **_: str) -> None:
        self.measured[name] = self.measured.get(name, 0) + value

    def object_store_bytes(self) -> int:
        return 200 << 20

    def node_ids(self) -> set[str]:
        return {self.node.identity}

    def leaving(self) -> set[str]:
        return set()

    def usable_nodes(self) -> list[Node]:
        return [self.node]

    def resources(self) -> str:
        return "one process"

    def launching(self) -> str:
        return ""


class OneProcess:
    """In place of `engine.cluster.Cluster`."""

    def __init__(self, config: Config, add_nodes: bool) -> None:  # noqa: ARG002
        self.nodes = [replace(probe(), identity="here")]
        self.told = "none: the actors are in this process"

    def hindrance(self) -> str:
        return ""

    @contextmanager
    def engine(self, cpus: float, tell: Callable[[str], None]) -> Iterator[InProcess]:  # noqa: ARG002
        yield InProcess(self.nodes[0])
