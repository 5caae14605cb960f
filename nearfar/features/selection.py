"""Picks the nearest of many rows on a CPU: products a tile at a time, and one compiled pass over each.

A row's candidates are those above its floor, the k-th best of what it has met. There is room for twice k;
when that is full, the k best are kept and the floor rises. So almost all similarities cost a comparison.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba works the types out; annotations on what it compiles would be decoration)

from __future__ import annotations

import functools
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..core import compiled, progress

QUERIES, SPAN = 1024, 8192  # rows and columns of a tile, 32 MiB: products like both large
LANES = 32  # similarities compared with the floor at once


@functools.partial(compiled.jit, fastmath=("nnan", "nsz", "reassoc"))
def _keep(tile, values, columns, counts, floors, first, k):
    """Add a tile's best to the candidates of its rows; column 0 of the tile is number `first`."""
    rows, width = tile.shape
    room = values.shape[1]
    for r in range(rows):
        row, value, column = tile[r], values[r], columns[r]
        count, floor = counts[r], floors[r]
        at = 0
        while at < width:
            end = min(at + LANES, width)
            top = row[at]
            for i in range(at, end):
                top = max(top, row[i])
            if top > floor:
                for i in range(at, end):
                    if row[i] > floor:
                        value[count], column[count] = row[i], first + i
                        count += 1
                        if count == room:
                            _narrow(value, column, count, k)
                            count, floor = k, value[0]
                            for j in range(1, k):
                                floor = min(floor, value[j])
            at = end
        counts[r], floors[r] = count, floor


@compiled.jit
def _narrow(value, column, count, k):
    """Bring the k greatest of the first `count` values to the front, in any order (Hoare's selection)."""
    low, high = 0, count - 1
    while low < high:
        a, b, c = value[low], value[(low + high) // 2], value[high]
        pivot = max(min(a, b), min(max(a, b), c))  # the middle one
        i, j = low, high
        while i <= j:
            while value[i] > pivot:
                i += 1
            while value[j] < pivot:
                j -= 1
            if i <= j:
                value[i], value[j] = value[j], value[i]
                column[i], column[j] = column[j], column[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@compiled.jit
def _best(values, columns, counts, k):
    """Bring the k best candidates of each row to the front."""
    for r in range(len(values)):
        _narrow(values[r], columns[r], counts[r], k)


def warm() -> None:
    """Compile, or load from disk."""
    tile, floors = np.ones((1, 2), np.float32), np.full(1, -np.inf, np.float32)
    values, columns, counts = np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int64), np.zeros(1, np.int64)
    _keep(tile, values, columns, counts, floors, 0, 1)
    _best(values, columns, counts, 1)


@functools.cache
def _ready() -> None:
    compiled.warmed(sys.modules[__name__])


def nearest(
    queries: torch.Tensor, base: torch.Tensor, k: int, *, exclude_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k rows of `base` with the largest inner products with each query, the largest first.

    Args:
        queries: (q, d) float32 on the CPU, without NaN.
        base: (n, d), likewise.
        k: how many, from 1 to n (to n - 1 with `exclude_self`).
        exclude_self: queries and base are the same rows, and a row does not count for itself.

    Returns:
        products (q, k) and index (q, k) int64, rows of `base`. Of equal ones, any may come first, or at the
        end come at all.
    """
    _ready()
    x, y = queries.numpy(), base.numpy()
    similarity, index = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int64)
    high = min(QUERIES, len(x))
    held = np.empty(high * min(SPAN, len(y)), np.float32)  # one piece of memory for every tile
    values, columns = np.empty((high, 2 * k), np.float32), np.empty((high, 2 * k), np.int64)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for low in range(0, len(x), QUERIES):
            progress.stage("comparing images", low, len(x))
            part = x[low : low + QUERIES]
            counts, floors = np.zeros(len(part), np.int64), np.full(len(part), -np.inf, np.float32)
            for start in range(0, len(y), SPAN):
                some = y[start : start + SPAN]
                tile = held[: len(part) * len(some)].reshape(len(part), len(some))
                np.matmul(part, some.T, out=tile)
                if exclude_self:
                    own = np.arange(low, low + len(part)) - start
                    rows = np.flatnonzero((own >= 0) & (own < len(some)))
                    tile[rows, own[rows]] = -np.inf
                _shared(pool, _keep, (tile, values, columns, counts, floors), start, k)
            best, who = values[: len(part)], columns[: len(part)]
            _shared(pool, _best, (best, who, counts), k)
            order = np.argsort(-best[:, :k], axis=1)
            similarity[low : low + len(part)] = np.take_along_axis(best, order, 1)
            index[low : low + len(part)] = np.take_along_axis(who, order, 1)
    return torch.from_numpy(similarity), torch.from_numpy(index)


def _shared(pool: ThreadPoolExecutor, work: Any, arrays: tuple[np.ndarray, ...], *same: int) -> None:
    """Call a compiled function in every thread, each with a run of the first array's rows."""
    rows, threads = len(arrays[0]), torch.get_num_threads()
    ends = [rows * part // threads for part in range(threads + 1)]
    cuts = [slice(low, high) for low, high in pairwise(ends) if low < high]
    list(pool.map(lambda cut: work(*(array[cut] for array in arrays), *same), cuts))
