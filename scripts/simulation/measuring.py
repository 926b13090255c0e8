"""What is measured: CPU time and waits of drivers' threads, memory, object stores, and the limit of the disk."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from layerscope.records.writing.journal import Journal
from layerscope.records.writing.write_behind import WriteBehind

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


@dataclass
class Driving:
    """What a driver came to, or several: seconds of one thread where nothing else is said."""

    questions: int = 0
    """That it wrote."""
    cpu: float = 0.0
    """Of the thread that drives, all in all."""
    write_cpu: float = 0.0
    """Of the thread that writes, in the journal, from the pieces of a record to the disk."""
    ray_cpu: float = 0.0
    """Of the driver's thread, in `ray.wait` and `ray.get`."""
    other_threads_cpu: float = 0.0
    """Of all others in its process: the one that hashes, and Ray's own."""
    disk_wait: float = 0.0
    """Of the thread that writes, until what it wrote is on the disk."""
    writer_wait: float = 0.0
    """Of the driver's thread, until the batch before is on the disk."""
    fetch_wait: float = 0.0
    idle: float = 0.0
    """In `ray.wait`: there was nothing to do."""
    wall: float = 0.0
    memory: int = 0
    """Largest private memory, in bytes, of one of them; the object store, which is mapped, is not in it."""

    @classmethod
    def of_all(cls, several: list["Driving"]) -> "Driving":
        added = {each.name: sum(getattr(one, each.name) for one in several) for each in fields(cls)}
        return cls(**added | {"memory": max((one.memory for one in several), default=0)})


@contextmanager
def driving(clock: Clock, slow_disk: float = 0.0) -> Iterator[Driving]:
    """Measures the driver that works in this thread meanwhile, whose engine has the same clock; whole at the end.

    Args:
        slow_disk: seconds that every batch waits for the disk, beside those that it needs.
    """
    process, found = psutil.Process(), Driving()
    to_file, behind = Journal.append, WriteBehind.append

    def write(file: Journal, *arguments: Any) -> None:
        there = file.lines
        with clock.timing("write"):
            to_file(file, *arguments)
            time.sleep(slow_disk)
        found.questions += file.lines - there

    def append(writer: WriteBehind, *arguments: Any) -> None:
        with clock.timing("append"):
            behind(writer, *arguments)
        found.memory = max(found.memory, private_memory(process))

    began, thread, all_threads = time.monotonic(), time.thread_time(), time.process_time()
    with ExitStack() as stack:
        stack.enter_context(patch.object(Journal, "append", write))
        stack.enter_context(patch.object(WriteBehind, "append", append))
        yield found
    found.cpu, found.write_cpu = time.thread_time() - thread - clock.cpu["disturb"], clock.cpu["write"]
    found.ray_cpu = clock.cpu["get"] + clock.cpu["wait"]
    found.other_threads_cpu = time.process_time() - all_threads - found.cpu - found.write_cpu - clock.cpu["disturb"]
    found.disk_wait, found.writer_wait = clock.wait["write"], clock.wait["append"]
    found.fetch_wait, found.idle = clock.wait["get"], clock.wait["wait"]
    found.wall = time.monotonic() - began - clock.cpu["disturb"] - clock.wait["disturb"]


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


def head_of_line(log: Path, n_batches: int, n_parts: int) -> tuple[float, float]:
    """Mean and longest time that a finished batch waits for an earlier one of its part."""
    end_of = {int(line.split()[0]): float(line.split()[1]) for line in log.read_text(encoding="ascii").splitlines()}
    ends = np.array([end_of[batch] for batch in range(n_batches)])
    edges = [n_batches * part // n_parts for part in range(n_parts + 1)]
    waits = np.concatenate([np.maximum.accumulate(ends[a:b]) - ends[a:b] for a, b in pairwise(edges)])
    return float(waits.mean()), float(waits.max())
