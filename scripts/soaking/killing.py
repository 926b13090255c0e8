"""Who is killed, and when: SIGKILL, at moments drawn at random."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from soaking.job import Run
from soaking.nodes import Nodes

_ACTORS = {"ray::GemmaActor": "actor", "ray::EncoderActor": "actor", "ray::WriterActor": "writer"}
"""By how the title begins that Ray gives a process."""
_CORE = ("raylet", "gcs_server")
_RAY_LOST = ("Ray's own ", "Ray cannot start on this machine: ", " cannot be joined: ")
"""What a run says that must end because its Ray is gone, or the node that its driver is on."""
_GIVEN_UP = (" times while it was starting", " died 5 times: ")
"""What a run says that ends because its actors were killed too often: it is gone on with."""
_IDLE_SECONDS = 900  # in which a run has written something, or ended


@dataclass
class Killer:
    """Kills what belongs to one run after the other, and counts it."""

    dice: random.Random
    nodes: Nodes | None
    """Of the cluster that the runs join; without one each has a Ray of its own."""
    counts: Counter[str]
    _killed: set[psutil.Process] = field(default_factory=set)

    def attack(self, run: Run, written: Callable[[], int], whole: int) -> bool:
        """Kills what works for a run, several at once at times, until the driver is hit; whether the run ended before.

        Args:
            written: how many bytes there are.
            whole: how many there will be.

        Raises:
            SystemExit: it ended otherwise, or does not go on.
        """
        while not self._wait(run, written, whole):
            for _ in range(self.dice.randint(1, 4)):
                if (reasons := self._kill_one(run)) is not None:
                    return self._ended(run, reasons)
        return self._ended(run, ())

    def _wait(self, run: Run, written: Callable[[], int], whole: int) -> bool:
        """Lets a run write some more, or go on for some seconds, perhaps to start in; whether it ended meanwhile."""
        began, dice = time.monotonic(), self.dice
        seconds = dice.uniform(0.2, 10) if dice.random() < 0.35 else float("inf")
        enough = written() + dice.uniform(0, whole / 4)
        while time.monotonic() - began < seconds and written() <= enough:
            try:
                run.process.wait(0.1)
            except subprocess.TimeoutExpired:
                if time.monotonic() - began > _IDLE_SECONDS:
                    raise SystemExit(f"soak: the run stands still; it said: {run.said()}") from None
            else:
                return True
        return False

    def _ended(self, run: Run, reasons: tuple[str, ...]) -> bool:
        """Whether it is done; it may have ended because it was killed, of an earlier kill, or for one of `reasons`."""
        reasons = (*reasons, *_GIVEN_UP, *(_RAY_LOST if self.nodes else ()))
        code = run.process.wait(_IDLE_SECONDS)
        if code == 0:
            return True
        if code != -signal.SIGKILL and not any(reason in run.said() for reason in reasons):
            raise SystemExit(f"soak: the run ended with {code}; it said: {run.said()}")
        for what, told in {"that gave up": _GIVEN_UP, "whose Ray or node was lost": _RAY_LOST}.items():
            if any(each in run.said() for each in told):
                self.counts[f"runs {what}"] += 1
        return False

    def _kill_one(self, run: Run) -> tuple[str, ...] | None:
        """Kills something that works for a run; if it must end of it, what it may say."""
        chance = self.dice.random()
        if chance < 0.2:
            run.process.kill()
            self.counts["drivers killed"] += 1
            return ()
        if self.nodes and chance < 0.4:
            self.nodes.kill_one(self.dice)
            self.counts["raylets killed"] += 1
            return None
        try:
            return self._kill_below(run, chance > 0.95)
        except psutil.NoSuchProcess:  # it ended in this moment
            return None

    def _kill_below(self, run: Run, core_too: bool) -> tuple[str, ...] | None:
        alive = [process for process in _below() if process not in self._killed]  # one that dies is killed once
        found = [(kind, process) for process in alive if (kind := _kind(process))]
        core = [(kind, process) for kind, process in found if kind in _CORE and process.ppid() == run.process.pid]
        mortal = bool(core) and core_too
        chosen = core if mortal else [(kind, process) for kind, process in found if kind not in _CORE]
        if not chosen:
            return None
        kind, process = self.dice.choice(chosen)
        process.kill()
        self._killed.add(process)
        self.counts[f"{kind}s killed"] += 1
        return _RAY_LOST if mortal else None


def _below() -> list[psutil.Process]:
    """Every process that this one has started, and those that they started: runs, their actors, Ray."""
    return list(psutil.Process().children(recursive=True))


def _kind(process: psutil.Process) -> str:
    """What a process is, if it is one to be killed."""
    try:
        title = " ".join(process.cmdline())
        if process.name() in _CORE:
            return str(process.name())
        return next((kind for begins, kind in _ACTORS.items() if title.startswith(begins)), "")
    except psutil.Error:
        return ""
