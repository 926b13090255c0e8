"""A place in the crew, and the actor that fills it now."""

from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.engine.interface import Handle
from layerscope.planning.placement import Seat


@dataclass(eq=False)
class Member:
    """A place in the crew, and the actor that fills it now."""

    seat: Seat
    role: str
    """`gemma`, or `encoder` and its layers."""
    number: int
    handle: Handle = None
    node_id: str = ""
    """Where its process is; empty until it is there."""
    node_name: str = ""
    kind: str = ""
    """Of processor or GPU."""
    ready: bool = False
    """It has loaded its weights."""
    leaving: bool = False
    """Its node is about to leave: it gets nothing new."""
    calls: int = 0
    """Given to it and not answered."""
    silent: float = 0.0
    """Seconds for which it has been at work, or loading, without an answer."""
    deaths: int = 0
    """In a row, without an answered call between them."""

    @property
    def name(self) -> str:
        return f"{self.role} #{self.number}"

    @property
    def available(self) -> bool:
        return self.ready and not self.leaving

    def clear(self) -> None:
        """Forgets the actor that was here."""
        self.handle, self.node_id, self.node_name, self.kind = None, "", "", ""
        self.ready, self.leaving, self.calls, self.silent = False, False, 0, 0.0

    def answered(self) -> None:
        """One of its calls is answered, or is waited for no longer."""
        self.calls -= 1
        self.silent = 0.0


def least_loaded(members: Sequence[Member], limit: int) -> Member | None:
    """The available one that has the least to do, if that is less than `limit` calls."""
    able = [member for member in members if member.available]
    member = min(able, key=lambda member: member.calls, default=None)
    return member if member is not None and member.calls < limit else None
