"""Writes files atomically, so that neither a crash nor a full disk leaves half a file."""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from . import locks
from .errors import NearfarError
from .redact import redact

_LOCK = ".lock"  # held while a folder is written
LEAST_FREE = 1 << 16  # bytes: with fewer, a writer that failed had no room
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|hf:")
_SHORT = re.compile(r"\d+ requested and \d+ written")  # numpy's words where a disk takes no more
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, or a quota, is called


class DiskFull(NearfarError):
    """There is no room for what is being written."""


@contextmanager
def atomic_write(path: Path, *, folders: bool = False) -> Iterator[IO[bytes]]:
    """Open a file to write, aside; it takes its name only when all is written and on the disk.

    Args:
        path: where it goes. A device or a pipe is never replaced.
        folders: make its folder, if it is not there, as a place that the user named.

    Yields:
        The file, open for bytes.

    Raises:
        NearfarError: the disk is full or the folder cannot be written; an old file is intact.
    """
    _refuse_special(path)
    if folders:
        refuse_address(path)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        if folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if says_full(error, path.parent):
            raise DiskFull(
                f"the disk of {path.parent} is too full for {path.name}; the last saved state is intact: "
                "free some space and run the same command again."
            ) from error
        raise NearfarError(
            f"{path} cannot be written ({error.strerror or error}); choose another place."
        ) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses even to remove what is not there
            aside.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuse a file that cannot be written, before the work that is to fill it.

    Args:
        path: of the file. Its folder need not be there.

    Raises:
        NearfarError: it is an address, a folder, a device or a pipe, or its folder is read-only or is a file.
    """
    refuse_address(path)
    if path.is_dir():
        raise NearfarError(f"{path} is a folder; name a file in it.")
    _refuse_special(path)
    above = path.parent
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise NearfarError(f"{path} cannot be written: {above} is no folder; choose another place.")
    if not os.access(above, os.W_OK):
        raise NearfarError(f"{path} cannot be written: its folder is read-only; choose another place.")


def check_new_folder(path: Path) -> None:
    """Refuse a folder that is there already or cannot be made, before the work that is to fill it.

    Args:
        path: of the folder.

    Raises:
        NearfarError: something has its name, or the folder above it is read-only or is a file.
    """
    if os.path.lexists(path):
        raise NearfarError(f"--out {path} already exists; name a new folder.")
    check_place(path)


def check_folder_name(path: Path) -> None:
    """Refuse a folder whose name is no UTF-8 text, before the work that is to fill it.

    Weights are read back by a library that takes no other name.

    Args:
        path: of the folder. It need not be there.

    Raises:
        NearfarError: its name, or that of a folder above it, is no UTF-8 text, or it is an address.
    """
    refuse_address(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        coding = sys.getfilesystemencoding()
        if coding != "utf-8":  # the name may well be text that Python was told not to read
            raise NearfarError(
                f"the name of the folder {path} is not text where Python reads names as {coding}; set "
                "PYTHONUTF8=1, or name another one with --out."
            ) from None
        raise NearfarError(
            f"the name of the folder {path} is not UTF-8 text; name another one with --out."
        ) from None


def refuse_address(path: Path) -> None:
    """Refuse an address such as s3://bucket/a, in whose place a folder `s3:` would be made here.

    Args:
        path: of a file or folder that is to be written.

    Raises:
        NearfarError: it is one.
    """
    if _ADDRESS.match(str(path)):
        shown = redact(str(path).replace(":/", "://", 1))
        raise NearfarError(
            f"{shown} is an address, and this is written to a file or folder of this machine; name one, and "
            "copy it there."
        )


def _refuse_special(path: Path) -> None:
    """Refuse a device, a pipe or a socket: as root, a file would take its place."""
    try:
        kind = os.lstat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(kind) or stat.S_ISLNK(kind) or stat.S_ISDIR(kind)):
        raise NearfarError(f"{path} is a device or a pipe, which no file replaces; name a file.")


def says_full(error: Exception, folder: Path) -> bool:
    """Tell whether another library could not write because the disk is full, whatever it raised.

    Args:
        error: what it raised.
        folder: where it wrote; what it wrote is still there.
    """
    if _SHORT.search(str(error)):
        return True
    told = re.search(r"os error (\d+)", str(error))  # of libraries written in Rust
    code = int(told[1]) if told else getattr(error, "errno", None)
    if code is not None:
        return code in FULL
    with suppress(OSError):
        return shutil.disk_usage(folder).free < LEAST_FREE
    return False


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder aside; it takes its name only when all is in it, whatever ends the work before.

    What a process that was killed left beside it goes the next time that this folder is written.

    Args:
        path: of the folder. If it is there, and empty, it stays, since it may be a mounted one, and gets the
            files at the end, in the order in which they were written.

    Yields:
        The folder to write into.

    Raises:
        NearfarError: the place cannot be written, or its disk is full.
    """
    refuse_address(path)
    there = path.is_dir()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path if there else path.parent
        _remove_left(beside, path.name)
        made = beside / f".{path.name}-{secrets.token_hex(4)}"
        made.mkdir()  # with the rights that the user's folders have
        lock = ExitStack()
        lock.enter_context(locks.hold(made / _LOCK, wait=True, needed=False))
    except OSError as error:
        raise NearfarError(
            f"--out {path} cannot be written ({error.strerror}); name another folder."
        ) from None
    try:
        yield made
        lock.close()
        (made / _LOCK).unlink(missing_ok=True)
        if there:
            for item in sorted(made.iterdir(), key=lambda item: item.stat().st_mtime_ns):
                os.replace(item, path / item.name)
        else:
            os.replace(made, path)
    except Exception as error:
        full = isinstance(error, DiskFull) or (not isinstance(error, NearfarError) and says_full(error, made))
        if not full:
            raise
        raise DiskFull(
            f"the disk of {path.parent} is too full for {path.name}; free some space and run the same "
            "command again."
        ) from error
    finally:
        lock.close()
        shutil.rmtree(made, ignore_errors=True)


def _remove_left(beside: Path, name: str) -> None:
    """Remove unfinished folders of this name whose process has ended: their lock can be had."""
    for left in beside.glob(f".{glob.escape(name)}-{'[0-9a-f]' * 8}/{_LOCK}"):
        with suppress(OSError, locks.Busy), locks.hold(left, needed=False) as held:
            if held:
                shutil.rmtree(left.parent, ignore_errors=True)
