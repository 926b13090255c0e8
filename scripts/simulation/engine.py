"""The engine of a run whose actors are simulated: Ray's, but for who is started and ended, and with a clock."""

from collections.abc import Sequence
from typing import Any

from layerscope.engine.interface import Reference
from layerscope.engine.ray_engine import RayEngine
from layerscope.planning.placement import Seat
from simulation.actors import Actor, Hosts
from simulation.measuring import Clock
from simulation.nodes import SimulatedGpus


class SimulatedEngine(RayEngine):
    """Hands out actors of two kinds, and times what the driver's thread spends in Ray."""

    def __init__(self, known: SimulatedGpus, gemma: Hosts, encoders: Hosts, clock: Clock) -> None:
        super().__init__(known)
        self._gemma, self._encoders, self._clock = gemma, encoders, clock

    def start(self, seat: Seat, node_id: str, accelerator: str, calls_at_once: int) -> Actor:
        del accelerator, calls_at_once
        return (self._gemma if seat.block is None else self._encoders).hire(node_id)

    def end(self, handle: Actor) -> None:
        """An actor's process is that of other actors too."""
        handle.hosts.dismiss(handle.number)

    def wait(self, references: Sequence[Reference], seconds: float) -> list[Reference]:
        with self._clock.timing("wait"):
            return super().wait(references, seconds)

    def fetch(self, reference: Reference) -> Any:
        with self._clock.timing("get"):
            return super().fetch(reference)
