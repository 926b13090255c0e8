"""The whole: a file in, an `Analysis` out."""

from collections.abc import Callable
from pathlib import Path

from layerscope.analysis.result import Analysis, Options

Progress = Callable[[str, float], None]
"""Gets what is being done, and which share of it is, from 0 to 1."""


def analyse(path: Path, options: Options | None = None, progress: Progress | None = None) -> Analysis:
    """Analyses a file, finished or still growing: whole lines only, read once, as a stream.

    Raises:
        UsageError: there is no such file, or it has no manifest.
        LayerscopeError: a line is not a record.
    """
    raise NotImplementedError
