"""A word now and then about a long file of questions, which is read whole before anything else can be said."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from layerscope.formatting import say, utf8

T = TypeVar("T")

_TELL_SECONDS = 10.0
_LOOK_EACH = 4096  # a look at the clock costs more than a line


def watched(parts: Iterable[T], path: Path, noun: str = "line") -> Iterator[T]:
    """The lines or rows of a file; every ten seconds standard error hears how many there were."""
    told = time.monotonic()
    for number, part in enumerate(parts, start=1):
        yield part
        if number % _LOOK_EACH == 0 and time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            say(f"{utf8(path.name)}: {number:,} {noun}s read", sys.stderr)
