"""Searches a store's vectors: exactly while that is fast, and by short codes in larger stores.

A copy of the vectors lies on disk as they once were (see `copies`). Rows that have changed since are known by
the digests of their vectors: they are kept in memory and always compared, and what is gone is left out. When
they grow many, the copy is rebuilt. So labels and columns may change as they like.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..core import locks
from ..core.errors import NearfarError
from . import quantised, snapshot
from .base import EXACT
from .brute_force import Cosines, Rows, best, merged, spans, unit_rows, weighed

FRESH = 5_000  # rows kept in memory at least before the copy is rebuilt; else a tenth of the copy
NARROW = 0.1  # the share of rows below which those that a condition leaves are compared, not searched for
TIED = 16  # queries with equals at the end of what is wanted that are looked into at a time
DECIMALS = 6  # of a cosine: what lies below is rounding, and must not put equals in order


class Keyed(Protocol):
    """What an index needs of a store."""

    @property
    def version(self) -> int:
        """A number that rises with every change."""

    def __len__(self) -> int:
        """Count the rows."""

    def rows(self, columns: Sequence[str], where: str | None = None) -> Any:
        """Read columns, as an Arrow table."""

    def keys(self) -> tuple[Any, Rows]:
        """Give every id, sorted, as an Arrow array, and the digest of its vector."""

    def pieces(self, ids: Any = None) -> tuple[int, int, Iterator[snapshot.Piece]]:
        """Give one state of the store, or some ids of it: its version, how many rows, and these in pieces."""


@dataclass(frozen=True)
class State:
    """What is searched at one version of the store: rows of the copy, then fresh rows.

    Attributes:
        version: the store's.
        names: n ids, sorted, as an Arrow array.
        row: (n,) where each lies: in the copy, or beyond its end among the fresh ones.
        live: the same, ascending.
        place: the other way round: (rows,) places in `names`, -1 for what is gone.
        copy: on disk.
        fresh: (f, d) unit rows.
    """

    version: int
    names: Any
    row: Rows
    live: Rows
    place: Rows
    copy: snapshot.Copy
    fresh: Cosines


class Index:
    """Searches one store; several threads may."""

    def __init__(self, store: Keyed, folder: Path, dim: int) -> None:
        """Prepare; nothing is read before the first search.

        Args:
            store: whose vectors.
            folder: where the copy lies, or will.
            dim: numbers in a vector.
        """
        self._store, self._folder, self._dim = store, folder, dim
        self._lock = threading.Lock()
        self._state: State | None = None
        self._allowed: dict[str, Rows] = {}

    def nearest(
        self, queries: Cosines, k: int, where: str | None, exact: bool | None
    ) -> tuple[list[list[str]], Cosines]:
        """Find the nearest rows; see `base.VectorStore.nearest`."""
        queries = check_queries(queries, k, self._dim)
        with self._lock:
            state = self._current(codes=None if exact is None else not exact)
            rows = state.live if where is None else self._rows(state, where)
            if state.copy.codes is None and exact is None and len(rows) > EXACT:
                state = self._current(codes=True)
                rows = state.live if where is None else self._rows(state, where)
        k = min(k, len(rows))
        if not k:
            return [[] for _ in queries], np.empty((len(queries), 0), np.float32)
        approximate = len(rows) > EXACT if exact is None else not exact
        if approximate and state.copy.codes is not None and len(rows) > NARROW * len(state.copy):
            found = _searched(state, queries, rows, k)
        else:
            found = _compared(state, queries, rows, k)
        return _named(state, *found)

    def _rows(self, state: State, where: str) -> Rows:
        """Find the rows that meet a condition; what was found is kept until the store changes."""
        import pyarrow.compute as pc

        if where not in self._allowed:
            ids = self._store.rows(["id"], where)["id"].combine_chunks()
            meets = pc.is_in(state.names, value_set=ids).to_numpy(zero_copy_only=False)
            self._allowed[where] = np.sort(state.row[meets])
        return self._allowed[where]

    def _current(self, codes: bool | None) -> State:
        """Give the newest state; the copy is rebuilt if need be, with codes (None: if it is large)."""
        version, state = self._store.version, self._state
        if state is None or state.version != version or (codes and state.copy.codes is None):
            self._allowed = {}
            state = self._joined(
                version, state.copy if state else snapshot.load(self._folder, self._dim), codes
            )
            if state is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                with locks.hold(self._folder / ".lock", wait=True):  # another process may just have made it
                    state = self._joined(version, snapshot.load(self._folder, self._dim), codes)
                    state = state or self._rebuilt(codes)
            self._state = state
        return state

    def _rebuilt(self, codes: bool | None) -> State:
        """Copy all vectors again."""
        import pyarrow.compute as pc

        for left in (2, 1, 0):
            version, count, pieces = self._store.pieces()
            codes = count > EXACT if codes is None else codes
            try:
                copy = snapshot.write(self._folder, version, self._dim, count, pieces, codes)
                break
            except (OSError, RuntimeError, ValueError):
                if not left:  # else another process has tidied this state away: read the next
                    raise
        if len(copy) != count:
            raise NearfarError(f"the search index in {self._folder} cannot be written; check its disk.")
        order = pc.sort_indices(copy.ids)  # without a look at the store: these are its rows at this version
        row = order.to_numpy().astype(np.int64)
        place = np.empty(count, np.int64)
        place[row] = np.arange(count)
        fresh = np.empty((0, self._dim), np.float32)
        return State(version, copy.ids.take(order), row, np.arange(count), place, copy, fresh)

    def _joined(self, version: int, copy: snapshot.Copy, codes: bool | None) -> State | None:
        """Join a copy with the rows that have changed since; None where a new copy is due."""
        import pyarrow as pa
        import pyarrow.compute as pc

        count = len(self._store)  # counted at once; names of many rows take long to read and sort
        if count - len(copy) > max(FRESH, len(copy) // 10) or len(copy) > 2 * count + FRESH:
            return None
        if codes and copy.codes is None and count >= quantised.FEWEST:
            return None
        names, keys = self._store.keys()
        at = pc.fill_null(pc.index_in(names, copy.ids), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        same = at >= 0
        same[same] = copy.keys[at[same]] == keys[same]
        changed = len(names) - int(same.sum())
        if changed > max(FRESH, len(copy) // 10):
            return None
        *_, pieces = self._store.pieces(names.filter(pa.array(~same)))
        some = list(pieces)
        fresh = np.concatenate([np.empty((0, self._dim), np.float32), *(vectors for _, _, vectors in some)])
        ids = pa.chunked_array([pa.array([], pa.string()), *(ids for ids, _, _ in some)]).combine_chunks()
        beyond = pc.fill_null(pc.index_in(names, ids), -1).to_numpy(zero_copy_only=False)
        row = np.where(same, at, np.where(beyond >= 0, beyond + len(copy), -1))
        names, row = names.filter(pa.array(row >= 0)), row[row >= 0]  # less what was deleted meanwhile
        place = np.full(len(copy) + len(fresh), -1, np.int64)
        place[row] = np.arange(len(row))
        return State(version, names, row, np.sort(row), place, copy, unit_rows(fresh))


def check_queries(queries: Cosines, k: int, dim: int) -> Cosines:
    """Scale queries to length 1.

    Raises:
        NearfarError: their width or k is wrong, or a number is not finite.
    """
    queries = np.array(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise NearfarError(f"the queries have the shape {queries.shape}; give (n, {dim}) numbers.")
    if k < 1:
        raise NearfarError(f"{k} neighbours were requested; ask for 1 or more.")
    return unit_rows(queries)


def _compared(state: State, queries: Cosines, rows: Rows, k: int) -> tuple[Cosines, Rows]:
    """Compare every row; of equals at the end of what is wanted, the first by id are kept."""
    split = int(np.searchsorted(rows, len(state.copy)))
    fresh = rows[split:] - len(state.copy)
    found = best(queries, state.copy.unit, k + 1, rows[:split])
    cosines, at = best(queries, state.fresh, k + 1, fresh)
    cosines, at = merged(found, (cosines, at + len(state.copy)), k + 1)
    if cosines.shape[1] <= k:
        return cosines, at
    order = np.argsort(-cosines, axis=1)
    cosines, at = np.take_along_axis(cosines, order, 1), np.take_along_axis(at, order, 1)
    last = np.round(cosines[:, k - 1 :], DECIMALS)
    tied = np.flatnonzero(last[:, 0] == last[:, 1])
    cosines, at = cosines[:, :k].copy(), at[:, :k].copy()
    for low in range(0, len(tied), TIED):
        some = tied[low : low + TIED]
        blocks = (
            block
            for part in ((state.copy.unit, rows[:split]), (state.fresh, fresh))
            for _, block in spans(*part)
        )
        every = np.concatenate([queries[some] @ block.T for block in blocks], axis=1)
        for line, values in zip(some, every, strict=True):
            near = np.flatnonzero(values > last[line, 0] - 2 * 10**-DECIMALS)  # few rows to put in order
            order = np.lexsort((state.place[rows[near]], -np.round(values[near], DECIMALS)))
            kept = near[order[:k]]
            cosines[line], at[line] = values[kept], rows[kept]
    return cosines, at


def _searched(state: State, queries: Cosines, rows: Rows, k: int) -> tuple[Cosines, Rows]:
    """Compare codes, and fresh rows; where too few candidates meet the condition, compare every row."""
    assert state.copy.codes is not None
    split = int(np.searchsorted(rows, len(state.copy)))
    mask = None
    if split < len(state.copy):
        mask = np.zeros(len(state.copy), bool)
        mask[rows[:split]] = True
    found = weighed(queries, state.copy.unit, state.copy.codes.search(queries, k, mask), k)
    cosines, at = best(queries, state.fresh, k, rows[split:] - len(state.copy))
    cosines, at = merged(found, (cosines, at + len(state.copy)), k)
    short = ~np.isfinite(cosines).all(axis=1)
    if short.any():
        cosines[short], at[short] = _compared(state, queries[short], rows, k)
    return cosines, at


def _named(state: State, cosines: Cosines, rows: Rows) -> tuple[list[list[str]], Cosines]:
    """Put what was found in order, most similar first and equals by id, and name it."""
    import pyarrow as pa

    cosines, places = np.round(cosines, DECIMALS), state.place[rows]
    order = np.lexsort((places, -cosines), axis=1)
    cosines, places = np.take_along_axis(cosines, order, 1), np.take_along_axis(places, order, 1)
    names = state.names.take(pa.array(places.reshape(-1))).to_pylist()
    width = places.shape[1]
    return [names[low : low + width] for low in range(0, len(names), width)], cosines
