"""SPADE: the patches of a picture are compared with those of the normal pictures that look most like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .patch_banks import NearestPatch, flat, nearest_rows

PICTURES = 10  # normal pictures that a picture is compared with, at most
ROWS = 16_000  # of their patches, after which no further picture is taken
GRID = 4  # places a side of the means by which these are found
BYTES = 1 << 28  # of all patches, at most; more are thinned out at random


class Spade(NearestPatch):
    """A bank of all patches, and a coarse description of each normal picture.

    Where pictures show many designs, each patch is so compared with patches of its own design alone, and with
    all of them.

    Source:
        Cohen and Hoshen 2020, "Sub-image anomaly detection with deep pyramid correspondences", sections 3.1
        to 3.3; here pictures are found by means of the same features, and scored by their worst patch.
    """

    name: ClassVar[str] = "spade"

    def __init__(self, shape: tuple[int, int], seed: int = 0) -> None:
        """Begin with an empty bank; see `NearestPatch`."""
        super().__init__(shape, seed)
        self.pictures: dict[int, Tensor] = {}  # owner to its description

    def capacity(self, width: int) -> int:
        """Say how many patches fit."""
        return BYTES // (4 * width)

    def add(self, features: Tensor, owner: int, name: int) -> None:
        """Add the patches of a normal picture; see `NearestPatch.add`."""
        super().add(features, owner, name)
        self.pictures[owner] = _description(features)[0]

    def settle(self, without: frozenset[int] = frozenset()) -> None:
        """Make the bank of what was added, picture by picture."""
        super().settle(without)
        order = self.owners.argsort(stable=True)
        self._set(self.bank[order], self.owners[order], self.keys[order])
        held = set(self.owners.unique().tolist())
        self.pictures = {owner: one for owner, one in self.pictures.items() if owner in held}

    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score pictures; see `NearestPatch.score`."""
        owners = torch.tensor(sorted(self.pictures))
        known = torch.stack([self.pictures[owner] for owner in owners.tolist()])
        count = min(PICTURES, max(1, ROWS * len(owners) // len(self.bank)), len(owners))
        alike = torch.cdist(_description(features), known).topk(count, largest=False).indices
        lows = torch.searchsorted(self.owners, owners)
        highs = torch.searchsorted(self.owners, owners, right=True)
        places = []
        for one, rows in zip(features.split(1), alike.tolist(), strict=True):
            bank = torch.cat([self.bank[lows[row] : highs[row]] for row in rows])
            places.append(nearest_rows(flat(one), bank)[0].view(features.shape[2:]))
        found = torch.stack(places)
        return found, found.flatten(1).amax(1)

    def state(self) -> dict[str, Tensor]:
        """Give what a file has to hold."""
        owners = sorted(self.pictures)
        more = {
            "pictures": torch.stack([self.pictures[owner] for owner in owners]),
            "picture_owners": torch.tensor(owners),
        }
        return super().state() | more

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        super().load(state)
        self.pictures = dict(zip(state["picture_owners"].tolist(), state["pictures"], strict=True))


def _description(features: Tensor) -> Tensor:
    """Describe pictures by the means of their features in 4 x 4 parts: (n, 16 c)."""
    return F.adaptive_avg_pool2d(features, GRID).flatten(1)
