"""How many CPUs and how much memory this process may use: the machine's, or what a container or scheduler allows.

Linux states such limits in control groups (cgroups), of which there are two layouts, v1 and v2; a group is held by the
limits of every group around it. Ray and psutil read the outermost one alone, which is where a container shows its own
limit and where Slurm and systemd show none. Where Slurm is set up without groups, its word alone says what a job has.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_MEMORY = ("memory.max", "memory.high", "memory.limit_in_bytes")  # above `high` a group is slowed down to a standstill


class Limits(NamedTuple):
    """What this process may use."""

    cpus: int
    memory: int
    """Bytes."""


def limits(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Limits:
    """What this process may use.

    Args:
        root: of the file system that `proc` and `sys` are looked up in.
        environment: in which Slurm says what a job was given on this node.
    """
    cpus: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _groups(root, "cpu"):
        cpus = min(cpus, _quota(group))
    for group in _groups(root, "memory"):
        memory = min(memory, *(_number(group / name) for name in _MEMORY))
    cpus, memory = min(cpus, _word(environment, "SLURM_CPUS_ON_NODE")), min(memory, _memory_of_slurm(environment))
    return Limits(max(1, int(cpus)), int(memory))  # of two and a half CPUs two: a third thread would wait for its half


def _memory_of_slurm(environment: Mapping[str, str]) -> float:
    """What `--mem` or `--mem-per-cpu` of a job comes to here, in bytes; Slurm counts in MiB."""
    per_cpu = _word(environment, "SLURM_MEM_PER_CPU") * _word(environment, "SLURM_CPUS_ON_NODE")
    return min(per_cpu, _word(environment, "SLURM_MEM_PER_NODE")) * (1 << 20)


def _word(environment: Mapping[str, str], name: str) -> float:
    """The number in a variable; infinite where it is not set, or 0, which asks for all there is."""
    told = environment.get(name, "")
    return (int(told) if told.isdecimal() else 0) or math.inf


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that hold this process for a controller, the innermost first.

    A process in a container sees its own group as the root of what is mounted, while `proc` may name it as the host
    does; then the path leads nowhere, and the root is the group.
    """
    for mount, mounted, told in _mounts(root):
        for line in _lines(root / "proc/self/cgroup"):
            _, controllers, path = line.split(":", 2)
            of_v1 = controller in controllers.split(",") and controller in told.split(",")
            if not (of_v1 or (controllers == "" and told == "cgroup2")):
                continue
            inner = path.removeprefix(mounted) if mounted != "/" and path.startswith(mounted) else path
            folder = mount / inner.strip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(mount))


def _mounts(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Where control groups are mounted, the group that is the mount's root, and `cgroup2` or v1's controllers."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        mounted, mount = before.split(" ")[3:5]
        if kind == "cgroup2":
            yield root / _unescaped(mount).lstrip("/"), _unescaped(mounted), kind
        elif kind == "cgroup":
            yield root / _unescaped(mount).lstrip("/"), _unescaped(mounted), options


def _unescaped(path: str) -> str:
    """A path of `mountinfo`, where blanks and backslashes stand as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _quota(group: Path) -> float:
    """The CPUs that a group may use at once: its time per period."""
    words = " ".join(_lines(group / "cpu.max")).split()  # "200000 100000", or "max 100000"
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]) / int(words[1])
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if math.isfinite(quota) and math.isfinite(period) else math.inf


def _number(file: Path) -> float:
    """The number in a file; infinite where there is no such file, or no limit in it ("max" and -1)."""
    text = "".join(_lines(file))
    return int(text) if text.isdigit() else math.inf


def _lines(file: Path) -> list[str]:
    try:
        # A disk may be mounted under a name that is none in UTF-8.
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # not Linux, a group that is gone, or files that are not ours to read: no limit is known
