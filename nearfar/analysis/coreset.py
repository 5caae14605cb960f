"""Chooses few points that stand for many: greedy k-center, and a random sample of a stream."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PROJECTED = 64  # random directions in which distances are measured


def k_center(points: Tensor, count: int, key: int, chosen: int = 0) -> Tensor:
    """Choose points so that all others are near a chosen one: each time the one that is farthest from them.

    Args:
        points: (n, c) floats.
        count: how many, at most n.
        key: from `rng.fold`; names the first point and the directions in which distances are measured.
        chosen: how many points, the first ones, are chosen already; at most `count`.

    Returns:
        (count,) int64 rows.

    Source:
        Gonzalez 1985, "Clustering to minimize the maximum intercluster distance".
    """
    draws = np.random.Generator(np.random.Philox(key=key))
    if points.shape[1] > PROJECTED:
        directions = draws.standard_normal((points.shape[1], PROJECTED)).astype(np.float32)
        points = points @ torch.from_numpy(directions)
    found = torch.arange(count)
    at = int(draws.integers(len(points)))
    half = points.square().sum(dim=1) / 2
    # Half of the squared distances: one product of a matrix and a vector a choice.
    away = torch.full((len(points),), torch.inf)
    for number in range(count):
        at = number if number < chosen else at
        found[number] = at
        torch.minimum(away, torch.addmv(half + half[at], points, points[at], alpha=-1), out=away)
        away[at] = -torch.inf  # rounding may leave more than nothing
        at = int(away.argmax())
    return found


class Reservoir:
    """A uniform random sample of the rows of a stream, whatever their order.

    Of all rows seen, those with the smallest keys are kept.
    """

    def __init__(self, capacity: int) -> None:
        """Begin without rows.

        Args:
            capacity: rows kept at most; twice as many are held between two calls.
        """
        self.capacity = capacity
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, rows: Tensor, owners: Tensor, keys: Tensor) -> None:
        """Offer some rows.

        Args:
            rows: (n, c) float32.
            owners: (n,) int64, the picture that each is of.
            keys: (n,) float32 in [0, 1), random.
        """
        if len(keys) > self.capacity:
            few = keys.argsort(stable=True)[: self.capacity]
            rows, owners, keys = rows[few], owners[few], keys[few]
        self._parts.append((rows, owners, keys))
        if sum(len(part[2]) for part in self._parts) > 2 * self.capacity:
            self._parts = [self.sample()]

    def sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give the rows kept, their owners and their keys, in the order of the keys."""
        rows, owners, keys = (torch.cat(part) for part in zip(*self._parts, strict=True))
        few = keys.argsort(stable=True)[: self.capacity]
        return rows[few], owners[few], keys[few]
