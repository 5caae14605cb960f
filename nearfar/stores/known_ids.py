"""Remembers which ids a table has had, so that the cost of a write does not grow with what is there."""

from __future__ import annotations

from typing import Any

import numpy as np

PIECE = 65_536  # rows read at a time


class KnownIds:
    """The ids of a LanceDB table, as sorted 64-bit hashes: 8 to 16 bytes a row.

    An id that is not among them is not in the table. One that is may have been deleted since. Other
    writers have to wait from the question on until `added` is called.
    """

    def __init__(self) -> None:
        """Know nothing yet; the first question reads all ids."""
        self._levels: list[np.ndarray] = []  # sorted, each at most half as long as the one before
        self._end = 0  # of the addresses read: LanceDB gives later rows higher ones
        self._version = 0
        self.read = 0  # ids read from the table so far

    def among(self, table: Any, ids: Any) -> np.ndarray:
        """Tell which ids the table may have; rows that others have added since are read first.

        Args:
            table: LanceDB's, at its newest version.
            ids: (n,) texts, as an Arrow array.

        Returns:
            (n,) flags.
        """
        version = int(table.version)
        if version < self._version:  # made anew
            self.__init__()  # type: ignore[misc]
        if version != self._version:
            self._catch_up(table)
            self._version = version
        asked = hashes(ids)
        found = np.zeros(len(asked), bool)
        for level in self._levels:
            at = np.searchsorted(level, asked)
            found |= level[np.minimum(at, len(level) - 1)] == asked
        return found

    def added(self, ids: Any, version: int) -> None:
        """Take note of ids that this writer has added.

        Args:
            ids: (n,) texts, as an Arrow array.
            version: of the table with them.
        """
        self._take(hashes(ids))
        if version == self._version + 1:  # nobody else changed anything meanwhile
            self._version = version

    def _catch_up(self, table: Any) -> None:
        """Read the ids of rows at addresses not seen yet."""
        query = table.search().select(["id"]).with_row_id(True)
        query = query.where(f"_rowid >= {self._end}") if self._end else query
        for batch in query.to_batches(PIECE):
            if len(batch):
                self._take(hashes(batch["id"]))
                self._end = max(self._end, int(batch["_rowid"].to_numpy().max()) + 1)
                self.read += len(batch)

    def _take(self, hashes: np.ndarray) -> None:
        """Add hashes; levels of like size become one, so that each hash is moved a few times only."""
        new = np.sort(hashes)
        while self._levels and len(self._levels[-1]) < 2 * len(new):
            new = np.sort(np.concatenate([self._levels.pop(), new]), kind="stable")  # merges two runs
            new = new[np.append(True, new[1:] != new[:-1])]
        if len(new):
            self._levels.append(new)


def hashes(texts: Any) -> np.ndarray:
    """Hash texts by Python's own hash, whose secret differs from process to process.

    Args:
        texts: (n,) texts or nothing, an Arrow array.

    Returns:
        (n,) int64.
    """
    return np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))
