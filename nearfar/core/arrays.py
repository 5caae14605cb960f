"""Opens .npz files of strangers: what an array claims to hold is held against the file before it is read."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

INFLATED = 1 << 30  # bytes of an array that a small file may hold packed
RATIO = 100  # and how many times its packed bytes a larger one may have
ERRORS = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises."""


def open_arrays(path: Path) -> Any:
    """Open a .npz file; use it in a `with`.

    Args:
        path: the file.

    Returns:
        As `numpy.load` does; nothing is unpickled.

    Raises:
        ValueError: an array claims more numbers than the file holds, is no array, or inflates to a
            size that may fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0
                if version != (1, 0):
                    read = np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            claimed = math.prod(shape) * dtype.itemsize
            if claimed > member.file_size:
                raise ValueError(f"{member.filename} claims {claimed:,} bytes and holds {member.file_size:,}")
            if claimed > max(INFLATED, RATIO * member.compress_size):
                raise ValueError(
                    f"{member.filename} inflates {member.compress_size:,} bytes to {claimed:,}; save it with "
                    "numpy.savez, which packs nothing"
                )
    return np.load(path, allow_pickle=False)
