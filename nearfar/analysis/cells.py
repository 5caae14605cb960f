"""Near neighbours among many rows: each is compared with the rows of its own cell, in several divisions.

Cells are found by k-means, again within each cell until it is small. So the cost grows as n log n. Two rows
that are nearly the same are seldom parted, and hardly ever in all divisions; neighbours at a distance are
missed more often.

Source: Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic deduplication",
which compares within one division.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..features.knn import top_k, unit

FEW = 50_000  # rows up to which all are compared
CELL = 2048  # rows in a cell, at most
BRANCHES = 16  # into which a larger cell is divided
SAMPLE, STEPS = 64, 5  # rows for each branch, and rounds, of the k-means that divides
DIVISIONS = 3

Rows = npt.NDArray[np.int64]


@torch.no_grad()
def near_rows(
    queries: torch.Tensor, base: torch.Tensor, k: int, *, exclude_self: bool = False, few: int = FEW
) -> Rows:
    """Find the rows most similar to each query by cosine: exactly among few, and nearly among many.

    Args:
        queries: (q, d) float32.
        base: (n, d) float32.
        k: how many, from 1 to n, or to n - 1 with `exclude_self`.
        exclude_self: the two are of the same examples, and none is its own neighbour.
        few: rows of `base` up to which all are compared.

    Returns:
        (q, k) rows of `base`, the most similar first; -1 where a cell holds fewer.
    """
    if len(base) <= few:
        return top_k(queries, base, k, exclude_self=exclude_self)[1].numpy()
    same = queries is base
    base = unit(base)
    queries = base if same else unit(queries)
    best = torch.full((len(queries), k), -torch.inf)
    found = torch.full((len(queries), k), -1)
    for division in range(DIVISIONS):
        for rows, asked in _cells(base, queries, rng.fold(0, "cells", division)):
            there = base[rows]
            similarity = (there if asked is rows else queries[asked]) @ there.T
            if exclude_self and asked is rows:
                similarity.fill_diagonal_(-torch.inf)
            elif exclude_self:
                similarity[asked[:, None] == rows] = -torch.inf
            value, at = similarity.topk(min(k, len(rows)), dim=1)
            who = torch.where(torch.isfinite(value), rows[at], -1)
            value, who = torch.cat([best[asked], value], 1), torch.cat([found[asked], who], 1)
            # What was found before comes first, and counts once.
            who, order = who.sort(dim=1, stable=True)
            value = value.gather(1, order)
            value[:, 1:][who[:, 1:] == who[:, :-1]] = -torch.inf
            best[asked], order = value.topk(k, dim=1)
            found[asked] = torch.where(torch.isfinite(best[asked]), who.gather(1, order), -1)
    return found.numpy()


def _cells(
    base: torch.Tensor, queries: torch.Tensor, key: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Divide rows into small cells: row numbers of `base` and of the `queries` that lie in the same one.

    Where the two are one tensor, both are the same list, and are divided once.
    """
    draws = np.random.Generator(np.random.Philox(key=key))
    every = torch.arange(len(base))
    waiting = [(every, every if queries is base else torch.arange(len(queries)))]
    while waiting:
        rows, asked = waiting.pop()
        if not len(asked) or not len(rows):
            continue
        if len(rows) <= CELL and asked is rows:
            yield rows, asked
            continue
        if len(rows) <= CELL:
            for low in range(0, len(asked), CELL):
                yield rows, asked[low : low + CELL]
            continue
        centres = _centres(base, rows, draws)
        mine = _nearest(base, rows, centres)
        theirs = mine if asked is rows else _nearest(queries, asked, centres)
        if int(mine.bincount().max()) > 0.95 * len(rows):  # hardly differ: any division is as good
            many = -(-len(rows) // CELL)
            mine = torch.from_numpy(draws.integers(many, size=len(rows)))
            theirs = mine if asked is rows else torch.from_numpy(draws.integers(many, size=len(asked)))
        for branch in range(int(mine.max()) + 1):
            part = rows[mine == branch]
            waiting.append((part, part if asked is rows else asked[theirs == branch]))


def _centres(base: torch.Tensor, rows: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Find centres of some rows by k-means on a sample of them."""
    some = base[rows[torch.from_numpy(draws.choice(len(rows), SAMPLE * BRANCHES, replace=False))]]
    centres = some[:BRANCHES]
    for _ in range(STEPS):
        at = (some @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, at, some)
        centres = torch.where(at.bincount(minlength=BRANCHES)[:, None] > 0, unit(sums), centres)
    return centres


def _nearest(x: torch.Tensor, rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Find the nearest centre of some rows."""
    parts = [(x[some] @ centres.T).argmax(dim=1) for some in rows.split(1 << 16)]
    return torch.cat(parts) if parts else rows
