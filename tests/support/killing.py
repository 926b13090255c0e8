"""What a kill at any moment would leave of a folder."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

STEPS = ("write", "writev", "pwrite", "fsync", "fdatasync", "ftruncate", "replace", "link", "mkdir", "unlink", "rmdir")


@contextmanager
def before_every_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Copies of a folder as a kill before each step of the system would leave it, half of what is written included.

    While one is made, the steps of other threads wait.
    """
    copies: list[Path] = []
    busy, one_at_a_time = False, threading.RLock()

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal busy
            with one_at_a_time:
                if not busy:
                    busy = True
                    copies.append(folder.with_name(f"copy {len(copies)}"))
                    shutil.copytree(folder, copies[-1])
                    busy = False
                return call(*arguments, **named)

        return step

    with monkeypatch.context() as patched:
        for name in STEPS:
            patched.setattr(os, name, watched(getattr(os, name)))
        yield copies
