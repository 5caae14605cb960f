"""Writes files atomically, so that neither a crash nor a full disk leaves half a file."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import NearfarError

LEAST_FREE = 1 << 16  # bytes: with fewer, a writer that failed had no room
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, or a quota, is called


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write, aside; it takes its name only when all is written and on the disk.

    Args:
        path: where it goes.

    Yields:
        The file, open for bytes.

    Raises:
        NearfarError: the disk is full or the folder cannot be written; an old file is intact.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.errno in FULL:
            raise NearfarError(
                f"the disk of {path.parent} is too full for {path.name}; the last saved state is intact: "
                "free some space and run the same command again."
            ) from error
        raise NearfarError(
            f"{path} cannot be written ({error.strerror or error}); choose another place with --out."
        ) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses even to remove what is not there
            aside.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuse a file whose folder cannot be written to, before the work that is to fill it.

    Args:
        path: of the file. A folder that is not there is not judged here.

    Raises:
        NearfarError: the folder is read-only, or belongs to somebody else.
    """
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise NearfarError(
            f"{path} cannot be written: its folder is read-only; choose another place with --out."
        )


def says_full(error: Exception, folder: Path) -> bool:
    """Tell whether another library could not write because the disk is full, whatever it raised.

    Args:
        error: what it raised.
        folder: where it wrote; what it wrote is still there.
    """
    told = re.search(r"os error (\d+)", str(error))  # of libraries written in Rust
    code = int(told[1]) if told else getattr(error, "errno", None)
    if code is not None:
        return code in FULL
    with suppress(OSError):
        return shutil.disk_usage(folder).free < LEAST_FREE
    return False


@contextmanager
def whole_folder(path: Path) -> Iterator[None]:
    """Write files into a folder that is new or empty; if the work does not end, the folder goes again.

    Args:
        path: of the folder.
    """
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
