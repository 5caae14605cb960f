"""Keeps fetched objects on disk, within a bound, so that the next epoch or command need not fetch them again.

Objects are spread over 256 folders by a hash of their names. Each folder keeps to its share of the bound: the
files that were made first go first.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import threading
from contextlib import suppress
from pathlib import Path

from ..core.cache_root import cache_root
from ..core.errors import NearfarError

BOUND = "NEARFAR_REMOTE_CACHE"  # of the environment: GB
DEFAULT = 10.0  # GB
FOLDERS = 256


class ObjectCache:
    """Bytes by name, in a folder; several processes may use it."""

    def __init__(self, folder: Path, bound: float) -> None:
        """Prepare.

        Args:
            folder: where; it is made when something is kept.
            bound: bytes kept at most; 0 to keep nothing.
        """
        self.folder, self.share = folder, bound / FOLDERS
        self._held: dict[str, float] = {}  # bytes in a folder, as far as this process knows
        self._lock = threading.Lock()

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(), digest_size=20).hexdigest()
        return self.folder / digest[:2] / digest[2:]

    def get(self, name: str) -> bytes | None:
        """Read what is kept under a name; None if nothing is."""
        if not self.share:
            return None
        try:
            return self._path(name).read_bytes()
        except OSError:
            return None

    def put(self, name: str, data: bytes) -> None:
        """Keep something; where the disk is full or cannot be written, nothing is kept."""
        if len(data) > self.share:
            return
        path = self._path(name)
        aside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.write_bytes(data)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
            with self._lock:
                place = path.parent.name
                if place not in self._held:
                    self._held[place] = sum(size for _, size, _ in _files(path.parent))
                else:
                    self._held[place] += len(data)
                if self._held[place] > self.share:
                    self._held[place] = _shrink(path.parent, 0.8 * self.share)


def _files(folder: Path) -> list[tuple[int, int, str]]:
    """List a folder's files: time, size, path."""
    with os.scandir(folder) as entries:
        return [(info.st_mtime_ns, info.st_size, entry.path) for entry in entries for info in [entry.stat()]]


def _shrink(folder: Path, bound: float) -> float:
    """Delete a folder's oldest files until the rest keeps to a bound, in bytes; tell what is left."""
    files = sorted(_files(folder))
    held = float(sum(size for _, size, _ in files))
    for _, size, path in files:
        if held <= bound:
            break
        Path(path).unlink(missing_ok=True)
        held -= size
    return held


def object_cache() -> ObjectCache:
    """Give the user's cache, of `NEARFAR_REMOTE_CACHE` GB."""
    text = os.environ.get(BOUND) or str(DEFAULT)
    if not re.fullmatch(r"\d+(\.\d*)?", text):
        raise NearfarError(f"{BOUND} is {text!r}; give a number of GB, 0 for no cache.")
    return _made(cache_root() / "remote", float(text) * 1e9)


@functools.cache
def _made(folder: Path, bound: float) -> ObjectCache:
    return ObjectCache(folder, bound)
