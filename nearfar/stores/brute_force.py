"""Compares queries with the rows of a matrix that need not fit in memory, and merges findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Cosines = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
SPAN = 1 << 15  # rows compared at a time
STEP = 256  # queries compared at a time


def unit_rows(vectors: Cosines) -> Cosines:
    """Scale rows to length 1; a zero row stays zero.

    Args:
        vectors: (n, d).

    Raises:
        NearfarError: a value is not finite.
    """
    import torch  # here, since opening a store does not need it

    from ..features.knn import unit

    return unit(torch.from_numpy(vectors)).numpy()


def best(queries: Cosines, unit: Cosines, k: int, rows: Rows | None = None) -> tuple[Cosines, Rows]:
    """Find the rows of a matrix that are most similar to each query, comparing all of them.

    Args:
        queries: (q, d) unit rows.
        unit: (n, d) unit rows, which may be mapped from a file.
        k: how many.
        rows: those of `unit` to compare, ascending; default all.

    Returns:
        Cosines (q, k') and rows (q, k'), k' being the lesser of k and the rows there are; in no order.
    """
    import torch

    from ..features.knn import largest

    cosines = np.empty((len(queries), 0), np.float32)
    found = np.empty((len(queries), 0), np.int64)
    for at, block in spans(unit, rows):
        values, places = [], []
        for low in range(0, len(queries), STEP):
            tile = torch.from_numpy(queries[low : low + STEP] @ block.T)
            value, column = largest(tile, min(k, len(block)), order=False)
            values.append(value.numpy())
            places.append(at[column.numpy()])
        cosines, found = merged((cosines, found), (np.concatenate(values), np.concatenate(places)), k)
    return cosines, found


def spans(unit: Cosines, rows: Rows | None) -> Iterator[tuple[Rows, Cosines]]:
    """Give row numbers and rows of a matrix, a chunk at a time; all, or some in ascending order."""
    count = len(unit) if rows is None else len(rows)
    for low in range(0, count, SPAN):
        at = np.arange(low, min(low + SPAN, count)) if rows is None else rows[low : low + SPAN]
        gapless = at[-1] - at[0] + 1 == len(at)
        yield at, np.asarray(unit[at[0] : at[-1] + 1] if gapless else unit[at])


def merged(a: tuple[Cosines, Rows], b: tuple[Cosines, Rows], k: int) -> tuple[Cosines, Rows]:
    """Keep the k best of two findings about the same queries, in no order."""
    cosines, rows = np.concatenate([a[0], b[0]], axis=1), np.concatenate([a[1], b[1]], axis=1)
    if cosines.shape[1] <= k:
        return cosines, rows
    keep = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return np.take_along_axis(cosines, keep, 1), np.take_along_axis(rows, keep, 1)


def weighed(queries: Cosines, unit: Any, rows: Rows, k: int) -> tuple[Cosines, Rows]:
    """Keep the k best of some rows found for each query, by their exact cosines.

    Args:
        queries: (q, d) unit rows.
        unit: (n, d) unit rows.
        rows: (q, m) rows of `unit`, -1 for none.
        k: how many.

    Returns:
        Cosines (q, k') and rows (q, k'), in no order; a row -1 has the cosine -inf.
    """
    cosines = np.full(rows.shape, -np.inf, np.float32)
    for line, at, query in zip(cosines, rows, queries, strict=True):
        line[at >= 0] = unit[at[at >= 0]] @ query
    return merged((cosines, rows), (cosines[:, :0], rows[:, :0]), k)
