"""Leaves out the images that were set aside: a view of a store that every use of its images goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import conditions
from .base import Vectors, VectorStore

SET_ASIDE = "set_aside"  # a column of flags: true for images that no use of the store is to see
KEPT = f"({SET_ASIDE} is null or {SET_ASIDE} = false)"


def has_set_aside(store: VectorStore) -> bool:
    """Tell whether a store has the column; one of another kind is its owner's own."""
    return store.columns.get(SET_ASIDE) == "flag"


def kept_where(store: VectorStore, where: str | None) -> str | None:
    """Add to a condition that an image is not set aside, unless the condition asks for that column itself.

    Args:
        store: the store.
        where: a condition, or None.

    Raises:
        NearfarError: the condition makes no sense.
    """
    if not has_set_aside(store):
        return where
    if where is None:
        return KEPT
    # It is read alone: else a bracket of its could close ours.
    named = conditions.columns_of(conditions.parse(where, store.columns))
    return where if SET_ASIDE in named else f"({where}) and {KEPT}"


class KeptImages:
    """A store without the images that were set aside; ids that are named are read and written as ever."""

    def __init__(self, store: VectorStore) -> None:
        """Look at a store.

        Args:
            store: with the column, or without.
        """
        self._store = store

    def __getattr__(self, name: str) -> Any:
        """Do all else as the store does."""
        return getattr(self._store, name)

    def __len__(self) -> int:
        """Count the images that are not set aside."""
        return len(self.ids()) if has_set_aside(self._store) else len(self._store)

    def ids(self, where: str | None = None) -> list[str]:
        """Name the rows, sorted."""
        return self._store.ids(kept_where(self._store, where))

    def vectors(
        self, where: str | None = None, ids: Sequence[str] | None = None
    ) -> tuple[list[str], Vectors]:
        """Read vectors."""
        return self._store.vectors(where if ids is not None else kept_where(self._store, where), ids)

    def rows(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> Any:
        """Read columns."""
        where = where if ids is not None else kept_where(self._store, where)
        return self._store.rows(columns, where, ids)

    def nearest(
        self, queries: Vectors, k: int, where: str | None = None, exact: bool | None = None
    ) -> tuple[list[list[str]], Vectors]:
        """Find the rows most similar to each query."""
        return self._store.nearest(queries, k, kept_where(self._store, where), exact)
