"""How far the making of a page is, on standard error."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from layerscope.formatting import say, takes_back


class Stages:
    """A bar for each stage on a terminal, elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self._name = ""
        self._bar: tqdm[Any] | None = None
        self._told = time.monotonic()

    def __enter__(self) -> "Stages":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def tell(self, name: str, share: float) -> None:
        if takes_back(sys.stderr):
            if name != self._name:
                self._close()
                self._bar = tqdm(total=100, desc=name, bar_format="{desc:<18} {percentage:3.0f} % |{bar}| {elapsed}")
            if self._bar is not None:
                self._bar.update(100 * share - self._bar.n)
        elif time.monotonic() - self._told >= 10:
            self._told = time.monotonic()
            say(f"{name}: {share:.0%}", sys.stderr)
        self._name = name

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
