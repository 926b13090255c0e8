"""What this machine has, without torch: processors, memory, GPUs and the packages that compute."""

import ctypes
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from layerscope import __version__
from layerscope.placement import Gpu, Node

_SOFTWARE = ("torch", "transformers", "tokenizers", "numpy")  # whose versions may change numbers, beside our own

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_MADV_DONTNEED = 4  # sys/mman.h


def probe() -> Node:
    """This machine, as far as this process may use it."""
    # layerscope's own by its source: a job that travels as a folder is not installed under a name.
    software = (("layerscope", __version__), *((name, version(name)) for name in _SOFTWARE))
    return Node(socket.gethostname(), _cpus(), _memory(), _gpus(), _processor(), software=software)


def keep_freed_memory() -> None:
    """Tells this process's allocator to use memory again instead of giving it back to the system.

    A forward pass on a CPU frees and takes tensors of many megabytes all the time, and pages that come fresh from the
    system must be zeroed first: a seventh of the time. Only for glibc; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def drop_pages(address: int, size: int) -> None:
    """Takes whole pages within a range out of this process's memory; only for what nobody will read again.

    Those of a mapped file stay in the file, others lose what they hold. Only on Linux; elsewhere nothing happens.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    page = os.sysconf("SC_PAGE_SIZE")
    start, end = -(-address // page) * page, (address + size) // page * page
    if madvise is not None and start < end:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's share
    told = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(told)) if told.isdigit() else total


def _gpus() -> tuple[Gpu, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        table = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines() if line.count(",") == 3]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        wanted = [name.strip() for name in visible.split(",") if name.strip()]
        rows = [row for row in rows if any(name == row[0] or row[1].startswith(name) for name in wanted)]
    return tuple(Gpu(name, int(mebibytes) << 20) for _, _, name, mebibytes in rows if mebibytes.isdigit())


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file() and (
        match := re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
    ):
        return match[1].strip()
    return platform.processor() or platform.machine()
