"""The engines of a run whose actors are simulated: Ray's, but for who is started and ended, and with a clock."""

from collections.abc import Sequence
from typing import Any

from layerscope.engine.cluster.ray_engine import RayEngine
from layerscope.engine.interface import Reference
from layerscope.engine.writers.writer_actor import ShareEngine
from layerscope.planning.placement import Seat
from layerscope.planning.shares import Share
from simulation.actors import Actor, Hosts
from simulation.measuring import Clock
from simulation.nodes import SimulatedGpus


class Simulated(RayEngine):
    """Hands out actors of two kinds, and times what the driver's thread spends in Ray."""

    gemma: Hosts
    encoders: Hosts
    clock: Clock

    def start(self, seat: Seat, node_id: str, accelerator: str, calls_at_once: int) -> Actor:
        del accelerator, calls_at_once
        return (self.gemma if seat.block is None else self.encoders).hire(node_id)

    def end(self, handle: Actor) -> None:
        """An actor's process is that of other actors too."""
        handle.hosts.dismiss(handle.key)

    def wait(self, references: Sequence[Reference], seconds: float) -> list[Reference]:
        with self.clock.timing("wait"):
            return super().wait(references, seconds)

    def fetch(self, reference: Reference) -> Any:
        with self.clock.timing("get"):
            return super().fetch(reference)


class SimulatedEngine(Simulated):
    """That of the one driver."""

    def __init__(self, known: SimulatedGpus, gemma: Hosts, encoders: Hosts, clock: Clock) -> None:
        super().__init__(known)
        self.gemma, self.encoders, self.clock = gemma, encoders, clock


class SimulatedShareEngine(Simulated, ShareEngine):
    """That of a writer."""

    def __init__(self, share: Share, gemma: Hosts, encoders: Hosts, clock: Clock) -> None:
        super().__init__(share)  # type: ignore[arg-type]
        self.gemma, self.encoders, self.clock = gemma, encoders, clock
