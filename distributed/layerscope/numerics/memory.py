"""The memory of a process that computes: how it is kept, and how it is given back."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_MADV_DONTNEED = 4  # sys/mman.h


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
