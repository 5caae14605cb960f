"""Scores patches by their distance to patches of normal pictures: the nearest patch, and PatchCore.

Both keep a bank of normal patches. A patch's score is its distance to the nearest one of the bank, and a
picture's that of its most anomalous patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core import rng
from .coreset import Reservoir, k_center

PATCHES = 15_000  # in the bank of the nearest patch
READ = 60_000  # patches of new pictures of which PatchCore chooses
MOST = 6_000  # of these that it keeps
SUPPORT = 9  # neighbours of the nearest patch by which PatchCore weighs a picture's score
AT_ONCE = 1 << 23  # distances held at a time


def nearest_rows(points: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest row of a bank to each point.

    Args:
        points: (n, c) float32.
        bank: (m, c) float32, m at least 1.

    Returns:
        (n,) Euclidean distances, and (n,) int64 rows of the bank.
    """
    half = bank.square().sum(1) / 2
    found = [
        torch.addmm(half, part, bank.T, alpha=-1).argmin(1)
        for part in points.split(max(1, AT_ONCE // len(bank)))
    ]
    rows = torch.cat(found)
    # Once more without the cancellation of |a|^2 + |b|^2 - 2 ab.
    away = torch.cat([
        (part - bank[row]).square().sum(1).sqrt()
        for part, row in zip(points.split(AT_ONCE // 1024), rows.split(AT_ONCE // 1024), strict=True)
    ])  # fmt: skip
    return away, rows


def flat(features: Tensor) -> Tensor:
    """Lay out features as rows.

    Args:
        features: (n, c, h, w).

    Returns:
        (n h w, c), picture by picture, row by row.
    """
    return features.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


class NearestPatch:
    """A bank of patches drawn at random from all normal pictures."""

    name: ClassVar[str] = "nearest"
    read: ClassVar[int] = PATCHES

    def __init__(self, shape: tuple[int, int], seed: int = 0) -> None:
        """Begin with an empty bank.

        Args:
            shape: places of a picture, height and width; of no meaning here.
            seed: names the patches that are drawn.
        """
        self.seed = seed
        self.bank = torch.zeros(0, 0)
        self.owners = torch.zeros(0, dtype=torch.int64)
        self.keys = torch.zeros(0)
        self._new = Reservoir(self.read)
        self._any = False

    def capacity(self, width: int) -> int:
        """Say how many patches are drawn at most, of so many numbers each."""
        return self.read

    def add(self, features: Tensor, owner: int, name: int) -> None:
        """Add the patches of a normal picture.

        Args:
            features: (1, c, h, w) float32.
            owner: the picture's number in the bank.
            name: a number of 64 bits that names the picture; it decides which of its patches are drawn.
        """
        rows = flat(features)
        if not self._any:
            self._new.capacity = self.capacity(rows.shape[1])
        drawn = rng.uniform(rng.fold(self.seed, "patches", name), np.arange(len(rows)), 1)[:, 0]
        self._new.add(rows, torch.full((len(rows),), owner), torch.from_numpy(drawn))
        self._any = True

    def settle(self, without: frozenset[int] = frozenset()) -> None:
        """Make the bank of what was added.

        Args:
            without: owners whose patches are left out.
        """
        rows, owners, keys = self._all()
        kept = self._kept(owners, without)
        rows, owners, keys = rows[kept], owners[kept], keys[kept]
        few = keys.argsort(stable=True)[: self.capacity(rows.shape[1])]
        self._set(rows[few], owners[few], keys[few])

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Give all patches held before `settle`, with their owners."""
        rows, owners, _ = self._all()
        return rows, owners

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        old = self.bank, self.owners, self.keys
        if not self._any:
            return old
        new = self._new.sample()
        if not len(self.bank):
            return new
        rows, owners, keys = (torch.cat(pair) for pair in zip(old, new, strict=True))
        return rows, owners, keys

    @staticmethod
    def _kept(owners: Tensor, without: frozenset[int]) -> Tensor:
        return ~torch.isin(owners, torch.tensor(sorted(without), dtype=torch.int64))

    def _set(self, rows: Tensor, owners: Tensor, keys: Tensor) -> None:
        self.bank, self.owners, self.keys = rows.contiguous(), owners.contiguous(), keys.contiguous()
        self._new, self._any = Reservoir(self.read), False

    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score pictures.

        Args:
            features: (n, c, h, w) float32.

        Returns:
            (n, h, w), the scores of places, and (n,), those of pictures; higher is more anomalous.
        """
        away, _ = nearest_rows(flat(features), self.bank)
        places = away.view(len(features), *features.shape[2:])
        return places, places.flatten(1).amax(1)

    def state(self) -> dict[str, Tensor]:
        """Give what a file has to hold."""
        return {"patches": self.bank, "owners": self.owners, "keys": self.keys}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self._set(state["patches"], state["owners"], state["keys"])


class PatchCore(NearestPatch):
    """A bank thinned out so that every normal patch is near one of it; scores weighted by its density there.

    Source:
        Roth et al. 2022, "Towards total recall in industrial anomaly detection", sections 3.2 and 3.3. The
        coreset is chosen among patches drawn at random, so that memory is bounded. It is a number of
        patches, where the authors' is a share of all: of few normal pictures every patch is kept.
    """

    name: ClassVar[str] = "patchcore"
    read: ClassVar[int] = READ

    def settle(self, without: frozenset[int] = frozenset()) -> None:
        """Choose the coreset of what was added; the old one stays until the bank is full."""
        rows, owners, keys = self._all()
        kept = self._kept(owners, without)
        old = int(kept[: len(self.bank)].sum())
        rows, owners, keys = rows[kept], owners[kept], keys[kept]
        if len(rows) > MOST:
            few = k_center(rows, MOST, rng.fold(self.seed, "coreset"), old if old < MOST else 0)
            rows, owners, keys = rows[few], owners[few], keys[few]
        self._set(rows, owners, keys)

    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score pictures; a picture's score is weighted as in equation 7 of the source."""
        rows = flat(features)
        away, near = nearest_rows(rows, self.bank)
        places = away.view(len(features), *features.shape[2:])
        most, at = places.flatten(1).max(1)
        count = min(SUPPORT, len(self.bank))
        if count == 1:
            return places, most
        size = places[0].numel()
        first = torch.arange(len(features)) * size + at
        heart = self.bank[near[first]]  # (n, c)
        apart = (heart[:, None] - self.bank).square().sum(2)
        support = apart.topk(count, dim=1, largest=False).indices  # itself among them
        far = (rows[first][:, None] - self.bank[support]).square().sum(2).sqrt()
        # exp(d) / sum(exp(d_i)), without overflow.
        share = 1 / (far - most[:, None]).exp().sum(1).clamp_min(1)
        return places, most * (1 - share)
