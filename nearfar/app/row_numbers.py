"""Numbers the rows of a store, so that page and server speak of images by number and never by path."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..stores import VectorStore
from .sorted_names import SortedNames

Rows = npt.NDArray[np.int32]
CLASSES = 500  # different texts of a column that are distinguished
OTHER = -2  # the code of the rarer ones


class StaleRows(Exception):
    """Images were added or deleted since the page numbered them; it has to load again."""


@dataclass(frozen=True)
class Column:
    """One column of all rows: `values` (n,) float32, or of texts and flags (n,) int32.

    These are places in `names`, -1 for empty, or OTHER.
    """

    kind: str
    values: npt.NDArray[Any]
    names: tuple[str, ...] = ()


class NumberedStore:
    """A store whose rows have numbers, which hold as long as `key` does; safe in threads."""

    def __init__(self, store: VectorStore) -> None:
        """Number the rows of a store.

        Args:
            store: an open one, which others may write to meanwhile.
        """
        self.store = store
        self.lock = threading.RLock()
        self._version = -1
        self.look()

    def look(self) -> int:
        """Look whether rows came or went, and give the store's version."""
        with self.lock:
            version = self.store.version
            if version != self._version:
                self.ids = SortedNames(self.store.rows(["id"])["id"].combine_chunks())
                self.key = self.ids.digest()
                self._version = version
            return version

    def named(self, rows: Sequence[int], key: str) -> list[str]:
        """Turn numbers into ids.

        Args:
            rows: numbers that the page was given.
            key: what `key` was then.

        Raises:
            StaleRows: they mean other images by now, or none.
        """
        with self.lock:
            self.look()
            if key != self.key or not all(0 <= row < len(self.ids) for row in rows):
                raise StaleRows
            return [self.ids[row] for row in rows]

    def numbers(self, ids: Iterable[str]) -> Rows:
        """Turn ids into numbers; those that are gone are passed over."""
        with self.lock:
            found = self.ids.places(list(ids))
            return found[found >= 0]

    def column(self, name: str, most: int = CLASSES) -> Column:
        """Read one column of all rows, for colours.

        Args:
            name: a column of the store.
            most: different texts to tell apart, the most frequent ones.

        Raises:
            NearfarError: there is no such column.
            StaleRows: rows came or went while it was read.
        """
        import pyarrow.compute as pc

        found = self.store.rows([name])[name].combine_chunks()
        if len(found) != len(self.ids):
            raise StaleRows
        kind = self.store.columns[name]
        if kind == "number":
            return Column(kind, found.cast("float32").to_numpy(zero_copy_only=False))
        coded = pc.dictionary_encode(found.cast("string"))
        counts = np.bincount(coded.indices.drop_null().to_numpy(), minlength=len(coded.dictionary))
        words = coded.dictionary.to_pylist()
        kept = sorted(range(len(words)), key=lambda code: (-counts[code], words[code]))[:most]
        kept.sort(key=lambda code: words[code])
        place = np.full(len(words) + 1, OTHER, np.int32)
        place[kept], place[-1] = np.arange(len(kept)), -1
        codes = coded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
        return Column(kind, place[codes], tuple(words[code] for code in kept))

    def rank(self, name: str) -> Rows:
        """Order all rows by a column.

        Args:
            name: a column of the store.

        Returns:
            (n,) ranks from 1, equal for equal values; -1 where there is no value.

        Raises:
            NearfarError: there is no such column.
            StaleRows: rows came or went while it was read.
        """
        import pyarrow.compute as pc

        found = self.store.rows([name])[name].combine_chunks()
        if len(found) != len(self.ids):
            raise StaleRows
        if self.store.columns[name] == "flag":
            found = found.cast("int8")
        ranks = pc.rank(found, tiebreaker="dense").to_numpy(zero_copy_only=False).astype(np.int32)
        ranks[found.is_null().to_numpy(zero_copy_only=False)] = -1
        return ranks

    def wrote(self, known: int, version: int) -> int:
        """Take note of a change of one's own, which brought and took no rows.

        Args:
            known: the store's version before the change.
            version: the one that the writer had seen before.

        Returns:
            The version that the writer has seen now: the new one, or `version` where others may have written.
        """
        with self.lock:
            if self.store.version != known + 1:
                self.look()
                return version
            self._version = known + 1
            return known + 1 if known == version else version
