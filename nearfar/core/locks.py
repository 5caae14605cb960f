"""One process at a time: a lock on a file, which the system lets go of however its process ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .progress import say

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def hold(path: Path, *, wait: bool = False, waiting: str = "", needed: bool = True) -> Iterator[bool]:
    """Hold a lock; where the disk has none, as some network shares, say so and go on without.

    Args:
        path: the lock's file, in a folder that exists.
        wait: whether to wait for another process that holds it.
        waiting: what to say then.
        needed: if not, go on in silence, also where the file cannot be written.

    Yields:
        Whether it is held.

    Raises:
        Busy: another process holds it, and `wait` is false.
        OSError: the file cannot be written.
    """
    lock = FileLock(path)
    held = False
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise Busy from None
            if waiting:
                say(waiting)
            lock.acquire(poll_interval=0.2)
        held = True
    except (OSError, NotImplementedError) as error:
        if needed:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            say(f"the disk of {path.parent} has no locks; run one command at a time there.")
    try:
        yield held
    finally:
        lock.release()
