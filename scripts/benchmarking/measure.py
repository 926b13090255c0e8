"""What a measurement is: taken in a process of its own, so that its memory is its own, and none warms up another."""

import multiprocessing
import re
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Answers = dict[int, list[tuple[float, list[set[int]]]]]
"""By question, of both solutions: the log-likelihood, and the ids of the strongest features of every layer."""


@dataclass
class Contender:
    """What somebody else's way to do the job came to."""

    seconds: float
    questions: int
    answers: Answers = field(repr=False)

    @property
    def per_question(self) -> float:
        return self.seconds / self.questions


def apart(function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> tuple[R, int]:
    """Calls a function in a fresh process: its result, and the largest memory of that process in bytes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_memory, function, *arguments, **options).result()


def _with_memory(function: Callable[..., R], *arguments: object, **options: object) -> tuple[R, int]:
    return function(*arguments, **options), largest_memory()


def largest_memory(process: int | str = "self") -> int:
    """Of a process so far, in bytes; Linux keeps a parent's in its child's `ru_maxrss`, but not in `VmHWM`."""
    status = Path(f"/proc/{process}/status")
    if status.exists() and (peak := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(peak[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 if process == "self" else 0


def synchronise() -> None:
    """Waits until a GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
