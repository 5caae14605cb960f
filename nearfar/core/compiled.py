"""Compiles functions with numba, and keeps the result on a disk where it can."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numba

FAST = ("contract", "reassoc", "nsz")
"""What the compiler may assume of floats everywhere: the order of sums and the sign of zero do not matter."""


def jit(function: Callable[..., Any], fastmath: Collection[str] = FAST) -> Callable[..., Any]:
    """Compile with numba and keep the result on disk; where no folder can be written, do not keep it.

    Args:
        function: what numba can compile; it runs without the interpreter's lock.
        fastmath: what the compiler may assume of floats, in LLVM's words.

    Returns:
        The function, which is compiled at its first call.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


def warmed(module: ModuleType) -> None:
    """Compile what a module holds, or load it from disk; what was kept and cannot be read is made again.

    Args:
        module: one with `jit` functions and a function `warm` that calls them.
    """
    try:
        module.warm()
    except Exception:  # a cache cut short by a power cut fails in many ways; a fault of ours fails again
        forget(module)
        module.warm()


def forget(module: ModuleType) -> None:
    """Remove what numba kept of a module's functions on disk, so that they are compiled again."""
    for name, found in vars(module).items():
        kept = getattr(getattr(found, "stats", None), "cache_path", None)
        if kept is not None:
            for file in Path(kept).glob(f"{Path(str(module.__file__)).stem}.{name}-*.nb[ci]"):
                with suppress(OSError):
                    file.unlink()
