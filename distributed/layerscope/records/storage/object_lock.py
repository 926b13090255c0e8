"""One run at a time on a folder of object storage: numbered locks, each made only where there is none.

Whoever has the highest number is the writer. It renews its lock every few seconds; one that ends releases it, and
leaves it there, so that no number is ever taken twice. Another run takes the next number when the lock was released,
when its process is seen to be dead on this machine, or when it was not renewed while the other looked on; no clocks are
compared. A writer that slept too long finds the higher number and stops. Had it not, nothing would be spoilt: parts are
made only where there is none, too.
"""

import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from layerscope.errors import LayerscopeError, TakenError
from layerscope.records.storage import object_store
from layerscope.records.storage.stored_run import StoredRun

RENEW_SECONDS: Final = 10.0
_LOOK_SECONDS = 3 * RENEW_SECONDS
_LOOKS = 6  # within that time
_NAME = re.compile(r"lock-(\d{8})\.json")


class ObjectLock:
    """The lock of a run that writes; held until it is released, or taken over."""

    def __init__(self, run: StoredRun, number: int) -> None:
        self._run, self._number, self._renewed = run, number, 0
        self._ended = threading.Event()
        self.lost = False
        """Whether another run has taken the folder over."""
        self._token = secrets.token_hex(8)

    @classmethod
    def take(cls, run: StoredRun) -> "ObjectLock":
        """
        Raises:
            TakenError: another run is writing there.
        """
        while True:
            number, held = _highest(run)
            if held is not None and not held.get("released") and not _is_dead(held):
                _expect_abandoned(run, number, held)
            lock = cls(run, number + 1)
            if object_store.put_new(str(lock._object), lock._content()):
                lock._begin()
                return lock

    def release(self) -> None:
        """Lets go of it; another run may take it at once."""
        self._ended.set()
        self._thread.join()
        if not self.lost:
            with suppress(LayerscopeError, OSError):  # then the next run looks on for a while
                object_store.put(str(self._object), self._content(released=True))

    def look(self) -> None:
        """Looks whether another run has the folder by now; asks the store."""
        self.lost = self.lost or _highest(self._run)[0] > self._number

    @property
    def _object(self) -> Path:
        return self._run.part(f"lock-{self._number:08d}.json")

    def _content(self, released: bool = False) -> bytes:
        self._renewed += 1
        return orjson.dumps({**_self(), "token": self._token, "renewed": self._renewed, "released": released})

    def _begin(self) -> None:
        for number in range(max(1, self._number - 3), self._number):  # those before these went with their successors
            object_store.remove(str(self._run.part(f"lock-{number:08d}.json")))
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self.lost:
            with suppress(LayerscopeError, OSError):  # it is tried again; whoever writes meets the fault itself
                self.look()
                if not self.lost:
                    object_store.put(str(self._object), self._content(), RENEW_SECONDS)


def is_held(run: StoredRun) -> bool:
    """Whether a run seems to be writing there: its process lives, or its lock was renewed of late."""
    _, held = _highest(run)
    if held is None or held.get("released"):
        return False
    if _is_here(held):
        return not _is_dead(held)
    return time.time() - float(held["changed"]) < _LOOK_SECONDS


def _highest(run: StoredRun) -> tuple[int, dict[str, Any] | None]:
    """The number of the lock that counts, and what it says; 0 and None where there is none."""
    found = [(match[1], changed) for name, changed in run.objects() if (match := _NAME.fullmatch(name))]
    if not found:
        return 0, None
    name, changed = max(found)
    try:
        content = orjson.loads(object_store.read(str(run.part(f"lock-{name}.json"))))
    except FileNotFoundError:  # a successor's doing, whose lock was listed late
        content = {"released": True}
    except ValueError:
        content = {}
    return int(name), {**(content if isinstance(content, dict) else {}), "changed": changed}


def _expect_abandoned(run: StoredRun, number: int, held: dict[str, Any]) -> None:
    """Looks on until a lock was not renewed for so long that its writer is dead.

    Raises:
        LayerscopeError: it was renewed.
    """
    for _ in range(_LOOKS):
        time.sleep(_LOOK_SECONDS / _LOOKS)
        now, found = _highest(run)
        if now != number or found is None or found.get("renewed") != held.get("renewed"):
            if found is not None and found.get("released"):
                return
            who = f" ({held['host']}, process {held['pid']})" if {"host", "pid"} <= held.keys() else ""
            raise TakenError(f"Another run is writing {run}{who}. Wait for it, stop it, or name another --output-file.")


def _self() -> dict[str, Any]:
    """Which process this is, so that whoever shares its machine can see whether it lives."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "started": _started(pid)}


def _machine() -> str:
    """The same for all processes that can see each other, until the machine starts anew; empty where nothing tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine began, in its own ticks; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_here(held: dict[str, Any]) -> bool:
    return bool(held.get("machine")) and held.get("machine") == _machine()


def _is_dead(held: dict[str, Any]) -> bool:
    """Whether its process is known to have ended."""
    return _is_here(held) and (type(held.get("pid")) is not int or _started(held["pid"]) != held.get("started"))
