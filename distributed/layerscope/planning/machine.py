"""What this machine has, without torch: processors, memory, GPUs and the packages that compute."""

import os
import platform
import re
import shutil
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

from layerscope import __version__
from layerscope.planning.placement import Gpu, Node

_SOFTWARE = ("torch", "transformers", "tokenizers", "numpy")  # whose versions may change numbers, beside our own


def probe() -> Node:
    """This machine, as far as this process may use it."""
    # layerscope's own by its source: a job that travels as a folder is not installed under a name.
    software = (("layerscope", __version__), *((name, version(name)) for name in _SOFTWARE))
    return Node(socket.gethostname(), _cpus(), _memory(), _gpus(), _processor(), software=software)


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
