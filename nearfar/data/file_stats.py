"""Asks the system for sizes and times of very many files, in a compiled loop without Python's own objects.

Of a million files whose answers are in memory, `os.stat` takes two thirds of its time to make these objects.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from ..core.compiled import jit, warmed
from .names import Names

# statx(2), whose record is the same on every processor
_statx: Any = types.ExternalFunction(
    "statx", types.int32(types.int32, types.intp, types.int32, types.uint32, types.intp)
)
_WANTED = 0x40 | 0x200  # STATX_MTIME, STATX_SIZE
_BYTES = 256
_SIZE, _SECONDS, _NANOSECONDS = 5, 14, 30  # in numbers of 8, 8 and 4 bytes
_LONGEST = 4096  # bytes of a path, its end included, that the system takes


@jit
def _look(folder, joined, start, ends, sizes, times):  # type: ignore[no-untyped-def]
    """Fill in sizes and times; -1 where the system gives none."""
    name, record = np.zeros(_LONGEST, np.uint8), np.zeros(_BYTES // 8, np.int64)
    parts = record.view(np.uint32)
    for row in range(len(ends)):
        length = ends[row] - start
        sizes[row] = -1
        if length < _LONGEST:
            whole = True  # a name with a zero in it would end there
            for at in range(length):
                name[at] = joined[start + at]
                whole &= name[at] != 0
            name[length] = 0
            if whole and _statx(folder, name.ctypes.data, 0, _WANTED, record.ctypes.data) == 0:
                sizes[row] = record[_SIZE]
                times[row] = record[_SECONDS] * 1_000_000_000 + parts[_NANOSECONDS]
        start = ends[row]


def warm() -> None:
    """Compile, or load from disk."""
    joined = np.zeros(1, np.uint8)
    joined.flags.writeable = False
    _look(-1, joined, 0, np.ones(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))


@functools.cache
def _ready() -> None:
    warmed(sys.modules[__name__])


def sizes_and_times(
    root: Path, names: Names, rows: range
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Look up neighbouring files of a collection, without the interpreter's lock.

    Args:
        root: the folder that names are relative to; a name may be absolute.
        names: of all files.
        rows: of them those that are wanted, one after another.

    Returns:
        (n,) sizes in bytes, -1 where the system gives none, and (n,) times of change in nanoseconds; None
        where this is no Linux, or the folder cannot be opened.
    """
    if not hasattr(os, "O_PATH") or rows.step != 1 or not rows:
        return None
    try:
        folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    _ready()
    joined = np.frombuffer(names.joined, np.uint8)
    joined.flags.writeable = False  # as it is of bytes: one kind of array, compiled once
    start = int(names.ends[rows.start - 1]) if rows.start else 0
    sizes, times = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    try:
        _look(folder, joined, start, names.ends[rows.start : rows.stop], sizes, times)
    finally:
        os.close(folder)
    return sizes, times
