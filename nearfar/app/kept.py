"""Keeps what takes long to find in a store, in memory and on disk, as long as it is true of the store."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..core.atomic import atomic_write
from ..core.cache_root import cache_root
from ..core.errors import NearfarError
from ..core.plain_path import from_home
from ..core.shapes import loads
from ..core.version import __version__
from ..queries.listing import Listing
from ..stores.set_aside import SET_ASIDE, has_set_aside
from .row_numbers import NumberedStore

IN_MEMORY = 40  # results, the newest
T = TypeVar("T")


def private_folder(address: str) -> Path:
    """Name the folder where the page keeps what belongs to a store: of this user, on this machine.

    Args:
        address: the store's.
    """
    place = address if "://" in address else str(from_home(address).resolve())
    return (
        cache_root() / "explore" / hashlib.blake2b(place.encode(errors="replace"), digest_size=12).hexdigest()
    )


class KeptResults:
    """Results by name, each made once for what the store holds; safe in threads."""

    def __init__(self, rows: NumberedStore) -> None:
        """Begin with nothing but what is on disk.

        Args:
            rows: the store.
        """
        self.rows, self.folder = rows, private_folder(rows.store.address)
        self._kept: OrderedDict[str, tuple[str, Any]] = OrderedDict()
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._content: tuple[int, str, str] = (-1, "", "")

    def content(self, kept_only: bool = False) -> str:
        """Name what results depend on: the images and their vectors, but not labels.

        Args:
            kept_only: whether they also depend on which images are set aside.

        Returns:
            A digest; "" where images are not told apart by their content.
        """
        version = self.rows.look()
        if self._content[0] != version:
            store, found = self.rows.store, hashlib.blake2b(digest_size=16)
            aside = [SET_ASIDE] if has_set_aside(store) else []
            table = store.rows(["id", "digest", *aside])
            preprocess = json.dumps(store.info.preprocess, sort_keys=True)
            found.update(f"{__version__} {store.info.encoder} {preprocess}".encode())
            digests = []
            for name in table.column_names:
                words = "\0".join("" if value is None else str(value) for value in table[name].to_pylist())
                found.update(words.encode(errors="replace"))
                digests.append(found.hexdigest())
            known = table["digest"].null_count == 0
            self._content = (version, digests[1] if known else "", digests[-1] if known else "")
        return self._content[2] if kept_only else self._content[1]

    def array(self, name: str, work: Callable[[], Any], also: str = "") -> Any:
        """Give an array, from memory, from disk, or made now.

        Args:
            name: of the result, in letters and -.
            work: makes it.
            also: what else it depends on.
        """

        def write(value: Any) -> bytes:
            file = io.BytesIO()
            np.save(file, value, allow_pickle=False)
            return file.getvalue()

        return self._once(
            name, work, write, lambda data: np.load(io.BytesIO(data), allow_pickle=False), False, also
        )

    def listing(self, name: str, work: Callable[[], Listing]) -> Listing:
        """Give a list, from memory, from disk, or made now.

        Args:
            name: of the list, in letters and -.
            work: makes it.
        """

        def read(data: bytes) -> Listing:
            said = loads(data)
            return Listing(**{**said, "ids": tuple(said["ids"]), "lines": tuple(said["lines"])})

        return self._once(f"list-{name}", work, lambda made: json.dumps(vars(made)).encode(), read, True)

    def for_now(self, name: str, version: str, work: Callable[[], T]) -> T:
        """Give what holds for one version of the store, from memory or made now."""
        with self._locks[name]:
            if self._kept.get(name, ("",))[0] != version:
                self._put(name, version, work())
            found: T = self._kept[name][1]
            return found

    def _once(
        self,
        name: str,
        work: Callable[[], T],
        write: Callable[[T], bytes],
        read: Callable[[bytes], T],
        kept_only: bool,
        also: str = "",
    ) -> T:
        content = self.content(kept_only)
        if not content:
            return self.for_now(name, self.rows.key + also, work)
        content += also
        path = self.folder / f"{name}.result"

        def found() -> T:
            with suppress(OSError, ValueError, KeyError, TypeError):
                said, _, data = path.read_bytes().partition(b"\n")
                if said == content.encode():
                    return read(data)
            made = work()
            with suppress(OSError, NearfarError, TypeError):  # a full disk costs the next start its time
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                with atomic_write(path) as file:
                    file.write(content.encode() + b"\n" + write(made))
            return made

        return self.for_now(name, content, found)

    def _put(self, name: str, version: str, value: Any) -> None:
        self._kept[name] = (version, value)
        self._kept.move_to_end(name)
        while len(self._kept) > IN_MEMORY:
            self._kept.popitem(last=False)
