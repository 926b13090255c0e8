"""What the driver and its crew ask of whatever runs actors, and what can go wrong there. Knows no Ray.

`ray_engine.py` is the one that a run uses. The tests bring another, which loses, delays, repeats and reorders answers.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from layerscope.errors import LayerscopeError
from layerscope.planning.node import Node
from layerscope.planning.placement import Seat

Handle = Any
"""An actor."""
Reference = Any
"""What stands for an answer that may not be there yet. Hashable; what it holds is released when it is dropped."""


class MachineFault(Exception):
    """What a machine did to a call: the batch is run again. Whatever else a call raises is an answer to it."""


class ActorLost(MachineFault):
    """The actor is gone, or must not compute any more: it is replaced."""


class AnswerLost(MachineFault):
    """What an actor answered is lost, through no fault of the one that was asked."""


class EngineLost(LayerscopeError):
    """Whatever ran the actors is gone for good, and all of them with it: the run ends, to go on another time."""


class NoRoom(LayerscopeError):
    """Nowhere can an actor of a kind that is needed start, and no node is on its way."""


class Engine(Protocol):
    """Runs actors on nodes. No method waits for long, but `wait` as long as it is told to."""

    def now(self) -> float:
        """A clock, in seconds."""
        ...

    def start(self, seat: Seat, node_id: str, accelerator: str, calls_at_once: int) -> Handle:
        """Asks for an actor of a seat's kind and share.

        Args:
            node_id: where, if there is room; anywhere if empty.
            accelerator: the type of GPU that it must have; any if empty.
        """
        ...

    def end(self, handle: Handle) -> None:
        """Ends an actor's process, whatever it is at."""
        ...

    def submit(self, handle: Handle, method: str, arguments: Sequence[Any], returns: int = 1) -> list[Reference]:
        """Calls a method of an actor: a reference for every value that it returns."""
        ...

    def wait(self, references: Sequence[Reference], seconds: float) -> list[Reference]:
        """Those that are answered; waits until there is one, but no longer than so many seconds.

        Raises:
            EngineLost: there will never be another answer.
        """
        ...

    def fetch(self, reference: Reference) -> Any:
        """The value of an answered reference.

        Raises:
            MachineFault: it is lost.
            LayerscopeError: the actor answered with a known error.
        """
        ...

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Tells a metric: adds to a counter, sets a gauge, or counts an observation."""
        ...

    def object_store_bytes(self) -> int:
        """What the store of this process's node holds, in which every finished record comes to lie."""
        ...

    def node_ids(self) -> set[str]:
        """The nodes that are there."""
        ...

    def leaving(self) -> set[str]:
        """The nodes that are about to leave."""
        ...

    def usable_nodes(self) -> list[Node]:
        """The nodes that can take work and have said what they have.

        Raises:
            LayerscopeError: layerscope cannot run on one of them.
        """
        ...

    def resources(self) -> str:
        """What there is in all and what is free of it, for people."""
        ...

    def launching(self) -> str:
        """The nodes that are being added, for people; empty where none is."""
        ...
