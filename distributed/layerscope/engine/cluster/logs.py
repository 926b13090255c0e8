"""What actors log: a JSON object a line, with role, node and batch, in the files that Ray keeps of every process."""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

from layerscope.errors import without_credentials


class Span(NamedTuple):
    """When something was at work, in seconds since the epoch by its node's clock."""

    start: float
    end: float


class ActorLog:
    """The log of this process's actor.

    Args:
        role: `gemma`, or `encoder` and its layers.
    """

    def __init__(self, role: str) -> None:
        self._about = {"role": role, "node": socket.gethostname(), "pid": os.getpid()}
        self._logger = logging.getLogger("layerscope.actor")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False  # Ray's own handlers would write it a second time, as text
        if not self._logger.handlers:
            self._logger.addHandler(logging.StreamHandler(sys.stderr))

    @contextmanager
    def timed(self, event: str, **fields: int | str) -> Iterator[Callable[[], Span]]:
        """Logs what is done inside and how long it took, or how it failed; gives the span so far."""
        start = time.time()
        failure = ""
        try:
            yield lambda: Span(start, time.time())
        except BaseException as error:
            failure = f"{type(error).__name__}: {without_credentials(str(error))}"
            raise
        finally:
            moment = datetime.fromtimestamp(start, UTC).isoformat(timespec="milliseconds")
            line = {"time": moment, **self._about, "event": event, **fields, "seconds": round(time.time() - start, 4)}
            self._logger.info(orjson.dumps({**line, "error": failure} if failure else line).decode())
