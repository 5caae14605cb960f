"""Commits to a LanceDB table while other processes write to it too, and says why one failed."""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from ..core.atomic import says_full
from ..core.errors import NearfarError
from ..core.redact import redact_text

READS = 4  # times that a state is read or written anew which another process has just tidied away
GONE = "not found"
_TRIES = 20  # commits tried while other processes write
_CONTENDED = ("conflict", "concurrent", "already exists")  # words in the complaints of a commit that lost
_TIDY = 8  # versions between two looks at whether small pieces are to be put together
_READABLE = 4  # newest versions that a table keeps when it is tidied, for those who are reading them
_NEWEST = (1 << 64) - 1  # less the number of a version is the name of its manifest
T = TypeVar("T")


def reason(error: Exception, address: str = "") -> str:
    """Say in a line why LanceDB failed, without secrets and without the place in its own source.

    Args:
        error: what it raised.
        address: of the store, as it was given; its secrets are left out.
    """
    first = redact_text(str(error), *([address] if address else [])).splitlines()[0]
    if system := re.search(r"([A-Z][^:()]*) \(os error \d+\)", first):  # what the disk said is enough
        return system[1]
    return re.sub(r",? ?/\S*\.rs:[\d:]+", "", first).strip()[:200].rstrip(".")


def check_writable(folder: Path | None, address: str) -> None:
    """Refuse a store in a folder that only others may write to.

    Args:
        folder: of LanceDB's table; None where the store is in no folder.
        address: what errors call the store.

    Raises:
        NearfarError: it is such.
    """
    if folder is not None and not all(os.access(one, os.W_OK) for one in (folder, folder / "_versions")):
        raise NearfarError(
            f"{address} cannot be written: it is read-only; leave the column out, or copy the store to a "
            "place where you may write."
        )


def unreadable(error: Exception, folder: Path | None, address: str) -> Exception:
    """Say that a table, or a part of it, cannot be read.

    Args:
        error: what LanceDB raised.
        folder: of the table; None where it is in no folder.
        address: of the store, as errors call it.

    Returns:
        The error to raise.
    """
    if isinstance(error, UnicodeEncodeError):  # a name that was asked for
        return error
    if folder is not None and not folder.is_dir():
        return NearfarError(
            f"the vector store {address} is no longer there; bring it back, or make it anew with nearfar "
            "embed."
        )
    return NearfarError(
        f"a part of the vector store {address} cannot be read ({reason(error)}); bring back a copy, or make "
        "it anew with nearfar embed."
    )


def commit(work: Callable[[], T], table: Any, folder: Path | None, address: str) -> T:
    """Do work that commits; again, from the newest state, where another process was quicker.

    Args:
        work: changes the table.
        table: LanceDB's.
        folder: of the store, if it is in one.
        address: what errors call the store.

    Returns:
        What the work gave.

    Raises:
        NearfarError: the table cannot be written.
    """
    for attempt in range(_TRIES):
        try:
            before = int(table.version)
            found = work()
            if folder is not None and int(table.version) > before and not _reads_back(table):
                _take_back(table, before, folder)
                raise NearfarError(_full(address))
            return found
        except (OSError, RuntimeError, ValueError) as error:
            text = str(error)
            gone = GONE in text.lower() and attempt < READS
            if not gone and not any(word in text.lower() for word in _CONTENDED):
                if folder is not None and says_full(error, folder):
                    raise NearfarError(_full(address)) from None
                raise NearfarError(f"{address} cannot be written: {reason(error)}.") from None
            time.sleep(0.05 * 2 ** min(attempt, 5))
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # which the next try tells
                table.checkout_latest()
    raise NearfarError(f"other processes keep writing to {address}; wait for them and try again.")


def _full(address: str) -> str:
    return (
        f"the disk of {address} is too full; what was written before is intact: free some space and run the "
        "same command again."
    )


def _reads_back(table: Any) -> bool:
    """Tell whether the newest rows can be read: now and then LanceDB loses the error of a full disk.

    Its piece of a table is then cut short, while the commit stands.
    """
    try:
        if count := table.count_rows():
            table.take_offsets([count - 1]).select(["id"]).to_arrow()
    except (OSError, RuntimeError, ValueError) as error:
        return GONE in str(error).lower()  # another process has tidied it away meanwhile
    return True


def _take_back(table: Any, version: int, folder: Path) -> None:
    """Make the state before a commit the newest again, also where the disk has no room to say so."""
    latest = int(table.version)
    try:
        table.checkout(version)
        table.restore()
        if _reads_back(table):
            return
    except (OSError, RuntimeError, ValueError):
        pass
    for number in range(version + 1, latest + 2):
        for file in folder.glob(f"*.lance/_versions/{_NEWEST - number:020}.manifest"):
            file.unlink(missing_ok=True)
    table.checkout_latest()


def tidy(table: Any, folder: Path | None, address: str) -> None:
    """Put pieces together where many small ones have come, so that neither time nor size grows.

    A large table is written anew more rarely: one piece costs the same whatever the table's size.

    Args:
        table: LanceDB's.
        folder: of the store, if it is in one.
        address: what errors call the store.
    """
    if int(table.version) % _TIDY:
        return
    # What fails here harms nothing: the next look tries again.
    with contextlib.suppress(NearfarError, OSError, RuntimeError, ValueError):
        found = table.stats()
        if found["fragment_stats"]["num_small_fragments"] >= max(_TIDY, found["num_rows"] // 1000):
            put_together(table, folder, address)


def put_together(table: Any, folder: Path | None, address: str, kept: timedelta | None = None) -> None:
    """Put pieces together, and remove what only old versions need.

    Args:
        table: LanceDB's.
        folder: of the store, if it is in one.
        address: what errors call the store.
        kept: how long old versions stay; None keeps the newest few, whatever their age.

    Raises:
        NearfarError: the table cannot be written.
    """
    if kept is None:
        versions = commit(table.list_versions, table, folder, address)
        times = sorted(item["timestamp"] for item in versions)
        age = datetime.now(times[0].tzinfo) - times[-min(_READABLE, len(times))]
        kept = max(age, timedelta(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # readers go on with the newest version
        commit(lambda: table.optimize(cleanup_older_than=kept), table, folder, address)
