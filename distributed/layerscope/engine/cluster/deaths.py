"""Sees when Ray's own processes die, without which a run cannot go on, and ends it within seconds.

Ray itself waits a minute for a dead control store, and then ends this process; for a dead raylet it waits for ever. So
the death is raised where this process is, and where that is a call of Ray's which does not come back, the process ends.
"""

import atexit
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

from layerscope.engine.interface import EngineLost
from layerscope.errors import LayerscopeError
from layerscope.formatting import say

CORE = ("raylet", "gcs_server")
"""The children that Ray cannot do without; their agents take the raylet with them."""
_SIGNAL = signal.SIGURG  # which nobody else uses: SIGCHLD is taken back by Ray when it connects
_LOOK_SECONDS = 0.1  # until both are there
_SECONDS = 5.0  # for what is raised to come out of the work, and what was computed to its file
_CLOSING_SECONDS = 30.0  # for Ray to end, which ends its processes itself


class Deaths:
    """Looks for them inside its `with` block, which raises what it saw. In the main thread."""

    def __init__(self, told: Callable[[str], LayerscopeError], remove: Callable[[], None]) -> None:
        """
        Args:
            told: from the name of what died to what a person should know, until there is work.
            remove: takes away what is left of Ray.
        """
        self.told, self._remove = told, remove
        self._name = ""
        self._raised = self._closing = False
        self._left = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether one died: no call of Ray's will be answered."""
        return bool(self._name) and not self._closing

    def error(self) -> LayerscopeError:
        return self.told(self._name)

    def close(self) -> None:
        """From here on Ray's processes are ended on purpose, which is given its time."""
        self._raised = self._closing = True

    def __enter__(self) -> "Deaths":
        self._main, self._before = threading.get_ident(), signal.signal(_SIGNAL, self._raise)
        self._others = {process for _, process, _ in _core_children()}  # of another Ray that this process has
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._watch, name="deaths", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(_SIGNAL, self._before)
        if self.lost:
            self._remove()
            # What Ray does when a process ends waits for the dead too, or aborts; and what is left of its handles and
            # references waits for them when it is given up. So the process is watched until its end.
            atexit.register(_end_at_once)
            return
        self._left.set()
        os.write(self._wake, b"\0")
        self._thread.join()
        for descriptor in (self._woken, self._wake):
            os.close(descriptor)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if self._name and not self._raised:
            self._raised = True
            raise self.error()

    def _watch(self) -> None:
        self._name = self._first_death()
        if not self._name:
            return
        if not self._closing:
            signal.pthread_kill(self._main, _SIGNAL)
        if not self._left.wait(_CLOSING_SECONDS if self._closing else _SECONDS):
            told = f"layerscope: {self.error()}"
            self._remove()
            say(told, sys.stderr)
            _end_at_once()

    def _first_death(self) -> str:
        """The name of what died, when it has; empty when the block is left before."""
        there: dict[str, int] = {}
        waiting = select.poll()
        waiting.register(self._woken, select.POLLIN)
        try:
            while True:
                for name, process, ended in _core_children() if len(there) < len(CORE) else ():
                    if process in self._others:
                        continue
                    if ended:
                        return name
                    if name not in there:
                        with suppress(OSError):  # ended in this moment, or a system without these
                            there[name] = os.pidfd_open(process)
                            waiting.register(there[name], select.POLLIN)
                look_again = None if len(there) == len(CORE) else _LOOK_SECONDS * 1000
                ready = {descriptor for descriptor, _ in waiting.poll(look_again)}
                if ready:
                    return next((name for name, descriptor in there.items() if descriptor in ready), "")
        finally:
            for descriptor in there.values():
                os.close(descriptor)


def _core_children() -> Iterator[tuple[str, int, bool]]:
    """Of the children that Ray cannot do without: name, process, and whether it has ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, _, rest = stat.read_text(errors="replace").partition("(")
            name, _, fields = rest.rpartition(")")
            state, parent = fields.split()[:2]
            if name in CORE and parent == str(os.getpid()):
                yield name, int(stat.parent.name), state == "Z"


def _end_at_once() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(EngineLost.exit_code)
