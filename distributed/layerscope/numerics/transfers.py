"""Copies between this process and a device that run while the device computes.

The machine (streams, events, pinned memory, the copying itself) is an object of few methods, so that a test brings one
that checks how they are used.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Machine(Protocol):
    """What copying needs of a device."""

    @property
    def device(self) -> torch.device: ...

    def pinned(self, like: Tensor) -> Tensor:
        """Memory of this process that the device copies to and from by itself."""

    def stream(self) -> Any:
        """A queue of work for the device."""

    def current_stream(self) -> Any:
        """The queue that computes."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Gives what is asked of the device inside to another queue."""

    def event(self) -> Any:
        """A mark in a queue, with `record(stream)` and `synchronize()`."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queues a copy; both must stay as they are until it is done."""

    def keep(self, tensor: Tensor, stream: Any) -> None:
        """Memory of the device is given to nobody else before a queue has come to where it is now."""


@dataclass(frozen=True)
class Cuda:
    """The machine of a GPU."""

    device: torch.device

    def pinned(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, device="cpu", pin_memory=True)

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def current_stream(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    def copy(self, target: Tensor, source: Tensor) -> None:
        # torch's allocator keeps pinned memory from being used again before the copy is done.
        target.copy_(source, non_blocking=True)

    def keep(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        tensor.record_stream(stream)


class Download:
    """Tensors on their way to this process."""

    def __init__(self, tensors: Sequence[Tensor], done: Any) -> None:
        self._tensors, self._done = list(tensors), done

    def wait(self) -> list[Tensor]:
        """The tensors on the CPU, as soon as they are there."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors


class Transfers:
    """Uploads in turn with the computing queue, and downloads in a queue of their own, beside it.

    Args:
        machine: None for a CPU, where nothing is copied.
    """

    def __init__(self, machine: Machine | None) -> None:
        self._machine = machine
        self._downloads: Any = machine.stream() if machine else None

    def upload(self, array: NDArray[Any] | Sequence[int], dtype: Any = np.int64) -> Tensor:
        """An array on the device; it is there for whatever the computing queue is given from now on."""
        source = torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
        if self._machine is None:
            return source
        pinned = self._machine.pinned(source)
        pinned.copy_(source)
        target = torch.empty_like(source, device=self._machine.device)
        self._machine.copy(target, pinned)
        return target

    def download(self, *tensors: Tensor) -> Download:
        """Begins to bring tensors here, once what the computing queue has been given so far is done."""
        if self._machine is None:
            return Download(tensors, None)
        computed, done = self._machine.event(), self._machine.event()
        computed.record(self._machine.current_stream())
        pinned = [self._machine.pinned(tensor) for tensor in tensors]
        with self._machine.on(self._downloads):
            self._downloads.wait_event(computed)
            for target, source in zip(pinned, tensors, strict=True):
                self._machine.copy(target, source)
                self._machine.keep(source, self._downloads)
        done.record(self._downloads)
        return Download(pinned, done)
