"""The NVIDIA GPUs that a process on this machine can use, as CUDA itself sees them.

CUDA knows what no table of nvidia-smi's does: which cards CUDA_VISIBLE_DEVICES leaves, in which order CUDA_DEVICE_ORDER
puts them, and the slices of a card (MIG). It is asked in a process of its own, without torch: asking takes memory that
a process keeps, what it answered first is its answer for ever, and a driver that hangs must hang nobody else.
"""

import ctypes
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECONDS = 60.0  # which CUDA may take; on machines with many cards that sleep it is ten
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class Cards:
    """What CUDA answered: cards by `name`, `uuid`, `memory`, `free` and `capability`, or why it has none to show."""

    def __init__(self, cards: list[dict[str, Any]], trouble: str = "") -> None:
        self.cards, self.trouble = cards, trouble


def usable_cards(environment: Mapping[str, str] = os.environ) -> Cards:
    """Asks CUDA which cards a process with an environment can use."""
    command = [sys.executable, "-I", "-S", str(Path(__file__))]  # standard library only, in 20 ms
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=dict(environment))
    except subprocess.TimeoutExpired:
        return Cards([], f"CUDA has not answered for {_SECONDS:.0f} s: a card or its driver hangs (see `dmesg`)")
    if done.returncode:
        return Cards([], f"asking CUDA for its cards ended with status {done.returncode}")
    return Cards(**json.loads(done.stdout))


class _CudaError(Exception):
    """CUDA answered with an error."""


def _ask() -> Cards:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Cards([])  # no driver: a machine without GPUs, or a container that was given none
    try:
        code = cuda.cuInit(0)
        if code == _NO_DEVICE:
            return Cards([])
        _check(cuda, code)
        count = ctypes.c_int()
        _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(count)))
        free = _free_memory()
        return Cards([_card(cuda, ordinal, free) for ordinal in range(count.value)])
    except _CudaError as error:
        return Cards([], f"CUDA answers: {error}")


def _card(cuda: Any, ordinal: int, free: Any) -> dict[str, Any]:
    device, memory, name, identity = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256), (16 * b"\0")
    identity_buffer = ctypes.create_string_buffer(identity, 16)
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(device), ordinal))
    _check(cuda, cuda.cuDeviceGetName(name, len(name), device))
    _check(cuda, cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    # The older call gives the whole card's for a slice of it.
    _check(cuda, getattr(cuda, "cuDeviceGetUuid_v2", cuda.cuDeviceGetUuid)(identity_buffer, device))
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        capability.append(value.value)
    number = str(uuid.UUID(bytes=identity_buffer.raw))
    return {
        "name": name.value.decode(errors="replace"),
        "uuid": number,
        "memory": memory.value,
        "free": free(number),
        "capability": capability,
    }


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _free_memory() -> Any:
    """A function from a card's number to the bytes that are free of it; None where the driver's library is silent."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        silent = nvml.nvmlInit_v2() != 0
    except OSError:
        silent = True
    if silent:
        return lambda _: None

    def free(number: str) -> int | None:
        for kind in ("GPU", "MIG"):
            handle, memory = ctypes.c_void_p(), _Memory()
            if nvml.nvmlDeviceGetHandleByUUID(f"{kind}-{number}".encode(), ctypes.byref(handle)) == 0:
                return memory.free if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 else None
        return None

    return free


def _check(cuda: Any, code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        raise _CudaError(f"{(text.value or b'unknown error').decode(errors='replace')} (error {code})")


if __name__ == "__main__":
    print(json.dumps(vars(_ask())))
