"""Measures memory: the peak and what is free; keeps what a process frees for its next step."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGEST = 1 << 30  # bytes of a piece of memory that is kept when it is freed
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep large pieces of memory that are freed, for this process's next ones.

    By itself glibc gives a piece above 32 MiB back to the system at once, and gets it again at the next step,
    page by page, each set to zero: a tenth to a third of the time of small networks. The process then holds
    about as much as at its peak until it ends. Settings of the user's own are left alone.

    Returns:
        Whether it is so now; False with other C libraries than glibc, or where the user has set it.
    """
    theirs = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    try:
        library = None if theirs or not os.confstr("CS_GNU_LIBC_VERSION") else ctypes.CDLL(None)
        change = getattr(library, "mallopt", None)
    except (AttributeError, OSError, ValueError):  # no such name on other systems
        return False
    if change is None:
        return False
    # Older libraries refuse more than half a heap's 64 MiB.
    kept = any(change(_MMAP_THRESHOLD, size) for size in (_LARGEST, 32 << 20))
    return bool(kept and change(_TRIM_THRESHOLD, (1 << 31) - 1) and change(_ARENA_MAX, 1))


def forget_peak() -> None:
    """Reset the peak, where the system can."""
    import torch  # here, since what asks how much is free may need nothing of it

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        pass


def peak(device: torch.device) -> int | None:
    """Tell the most memory in use at once since `forget_peak`, or since the start where that is impossible.

    Args:
        device: where the computing is done.

    Returns:
        MiB: of the GPU's memory, or else what this process held resident; None where it is not known.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:")), None)


def available() -> int:
    """Bytes of memory that could still be had: the machine's, or less where a container says so."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    old = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for most, used in (("memory.max", "memory.current"), old):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            limit = int(Path("/sys/fs/cgroup", most).read_text())
            free = min(free, limit - int(Path("/sys/fs/cgroup", used).read_text()))
    return max(0, free)
