"""A device that works on its queue of copies only when somebody waits for it, and holds whoever uses it to the rules.

Its memory is this process's, and what it computes is there at once. What a GPU does later is done as late as may be
here: a download that nobody waits for is never done, and one that is begun too early finds what was not computed yet.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = {  # what a GPU's owner waits for: a number or a size that depends on what is computed
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten.unique_dim,
    torch.ops.aten._unique2,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.equal,
    torch.ops.aten.item,
}


class NoWaiting(TorchDispatchMode):
    """Inside it, what would have to wait for a device is refused."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func.overloadpacket is torch.ops.aten.index and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        assert not masked, "an index by a mask waits for the device to say how many are true"
        assert func.overloadpacket not in _WAITS, f"{func} waits for the device"
        return func(*args, **kwargs or {})


@dataclass(eq=False)
class Queue:
    """Work of the device, in its order."""

    steps: list[Callable[[], None]] = field(default_factory=list)
    done: int = 0
    after: "set[Event]" = field(default_factory=set)
    """Marks that what follows waits for."""

    def wait_event(self, event: "Event") -> None:
        assert event.queue is not None, "a mark that was put nowhere"
        self.after.add(event)


@dataclass(eq=False)
class Event:
    """A mark in a queue."""

    device: "SimulatedDevice"
    queue: Queue | None = None
    place: int = 0

    def record(self, queue: Queue) -> None:
        self.queue, self.place = queue, len(queue.steps)

    def synchronize(self) -> None:
        assert self.queue is not None, "a mark that was put nowhere"
        with self.device.working:
            self.device.waits += 1
            while self.queue.done < self.place:
                self.queue.steps[self.queue.done]()
                self.queue.done += 1


class SimulatedDevice:
    """A `Machine` of `transfers.py`."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.waits = 0
        """How often somebody waited for a copy."""
        self.copies = 0
        self.working = threading.Lock()
        self._computing = Queue()
        self._threads = threading.local()  # a thread has a current queue of its own, as with CUDA
        self._pinned: list[Tensor] = []
        self._kept: list[tuple[int, Queue]] = []
        self._in_flight: list[tuple[Tensor, Tensor]] = []

    def pinned(self, like: Tensor) -> Tensor:
        """What nobody has copied to yet holds numbers that no test takes for its own."""
        memory = torch.full_like(like, torch.nan if like.is_floating_point() else 77, device="cpu")
        self._pinned.append(memory)
        return memory

    def stream(self) -> Queue:
        return Queue()

    def current_stream(self) -> Queue:
        return getattr(self._threads, "current", self._computing)

    @contextmanager
    def on(self, stream: Queue) -> Iterator[None]:
        before, self._threads.current = self.current_stream(), stream
        yield
        self._threads.current = before

    def event(self) -> Event:
        return Event(self)

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.copies += 1
        queue = self.current_stream()
        here = source if queue is self._computing else target
        assert any(here is one for one in self._pinned), "a copy from or to memory that is not pinned waits"
        if queue is self._computing:
            if target.device.type != "meta":
                target.copy_(source)
            self._in_flight.append((source, source.clone()))
            return
        then = source.clone()

        def copied() -> None:
            assert any(event.queue is self._computing for event in queue.after), "copied before it was computed"
            assert (id(source), queue) in self._kept, "the device may have given the source's memory to somebody else"
            assert torch.equal(source.nan_to_num(), then.nan_to_num()), "the source was changed before it was copied"
            target.copy_(source)

        queue.steps.append(copied)

    def keep(self, tensor: Tensor, stream: Queue) -> None:
        self._kept.append((id(tensor), stream))

    def assert_uploads_were_left_alone(self) -> None:
        """Nobody wrote to pinned memory that the device might still have been reading."""
        for source, then in self._in_flight:
            assert torch.equal(source, then), "pinned memory was used again while it was copied from"
