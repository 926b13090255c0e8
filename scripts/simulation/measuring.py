"""What is measured: CPU time and waits of the driver's threads, memory, and the limit of the disk."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

RECORD_BYTES = 280_000


class Clock:
    """CPU seconds, and seconds without CPU, of the calling thread in whatever is timed."""

    def __init__(self) -> None:
        self.cpu, self.wait = Counter[str](), Counter[str]()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - cpu
            self.cpu[name] += spent  # type: ignore[assignment]
            self.wait[name] += time.monotonic() - wall - spent  # type: ignore[assignment]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.timing(name):
                return function(*arguments, **options)

        return timed


def cpu_of(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def private_memory(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def seconds_to_write(path: Path, size: int) -> float:
    """How long it takes to write so many bytes; beside the records, for memory never used before is slower to fill."""
    piece = os.urandom(RECORD_BYTES)
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(max(1, size // len(piece))):
            file.write(piece)
        os.fdatasync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def head_of_line(log: Path, n_batches: int) -> tuple[float, float]:
    """Mean and longest time that a finished batch waits for an earlier one."""
    end_of = {int(line.split()[0]): float(line.split()[1]) for line in log.read_text(encoding="ascii").splitlines()}
    ends = np.array([end_of[batch] for batch in range(n_batches)])
    waits = np.maximum.accumulate(ends) - ends
    return float(waits.mean()), float(waits.max())
