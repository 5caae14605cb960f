"""Reads an image file whole, or says in a few words why it cannot be read."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import IO

from ..core.errors import BadImage

MAX_PIXELS = 100_000_000  # of an image, unless the user says otherwise


def open_file(path: Path, max_pixels: int) -> IO[bytes]:
    """Open a regular file of a plausible size; never wait on a pipe, never read a device.

    Args, raises: as `read`.

    Returns:
        The open file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        special = {
            errno.EACCES: "permission denied",
            errno.ENOENT: "no such file",
            errno.ELOOP: "a link that leads to itself",
            errno.ENXIO: "not a regular file",
        }
        reason = special.get(error.errno or 0, (error.strerror or str(error)).lower())
        raise BadImage(f"unreadable: {reason}") from None
    except UnicodeEncodeError:
        coding = sys.getfilesystemencoding()
        if coding != "utf-8":
            raise BadImage(f"unreadable: Python reads names as {coding} here; set PYTHONUTF8=1") from None
        raise BadImage("unreadable: its name is no text (half of a surrogate pair)") from None
    except ValueError:
        raise BadImage("unreadable: its name holds a zero byte") from None
    info = os.fstat(handle)
    problem = ""
    if stat.S_ISDIR(info.st_mode):
        problem = "unreadable: a folder, not a file"
    elif not stat.S_ISREG(info.st_mode):
        problem = "unreadable: not a regular file"
    elif info.st_size == 0:
        problem = "empty file"
    elif info.st_size > 8 * max_pixels + (64 << 20):  # 8 bytes a pixel: 16-bit RGBA, not compressed
        problem = f"over the limit: a file of {info.st_size:,} bytes"
    if problem:
        os.close(handle)
        raise BadImage(problem)
    return os.fdopen(handle, "rb")


def read(path: Path, *, max_pixels: int) -> bytes:
    """Read an image file whole.

    Args:
        path: the file.
        max_pixels: a file larger than 8 bytes a pixel of this many, plus 64 MiB, is not read.

    Returns:
        Its bytes, at least one.

    Raises:
        BadImage: it cannot be read, is empty, is too large, or is no regular file.
    """
    with open_file(path, max_pixels) as file:
        try:
            return file.read()
        except OSError as error:
            raise BadImage(f"unreadable: {(error.strerror or str(error)).lower()}") from None
