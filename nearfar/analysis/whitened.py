"""PatchCore on whitened features: directions in which normal patches hardly differ count like the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from .coreset import Reservoir
from .patch_banks import PatchCore

RIDGE = 0.01  # of the mean variance, added to each direction's


class Whitened(PatchCore):
    """PatchCore, with Mahalanobis distances by the covariance of all normal patches.

    A few directions hold most of the variance of an encoder's features, and a defect need not lie in them.
    The covariance is that of the first pictures added, and stays as the bank grows.

    Source:
        The distance is that of Rippel et al. 2020, "Modeling the distribution of normal data in pre-trained
        deep features for anomaly detection", section 3, here of patches and to the nearest one; the bank is
        PatchCore's.
    """

    name: ClassVar[str] = "whitened"

    def __init__(self, shape: tuple[int, int], seed: int = 0) -> None:
        """Begin with an empty bank; see `NearestPatch`."""
        super().__init__(shape, seed)
        self.mean, self.whitening = torch.zeros(0), torch.zeros(0, 0)

    def add(self, features: Tensor, owner: int, name: int) -> None:
        """Add the patches of a normal picture; see `NearestPatch.add`."""
        super().add(self._white(features), owner, name)

    def settle(self, without: frozenset[int] = frozenset()) -> None:
        """Measure the covariance, the first time, and choose the coreset."""
        if not len(self.mean):
            rows, owners, keys = self._all()
            self.mean = rows.mean(0)
            away = rows - self.mean
            values, directions = torch.linalg.eigh((away.T @ away / len(rows)).double())
            values = values.clamp_min(0)
            spread = (values + RIDGE * values.mean().clamp_min(1e-12)).sqrt()
            self.whitening = (directions / spread).float()
            self._new = Reservoir(self.read)
            self._new.add(away @ self.whitening, owners, keys)
        super().settle(without)

    def _white(self, features: Tensor) -> Tensor:
        """Whiten (n, c, h, w), once the covariance is known."""
        if not len(self.mean):
            return features
        return ((features.permute(0, 2, 3, 1) - self.mean) @ self.whitening).permute(0, 3, 1, 2)

    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score pictures; see `PatchCore.score`."""
        return super().score(self._white(features))

    def state(self) -> dict[str, Tensor]:
        """Give what a file has to hold."""
        return super().state() | {"mean": self.mean, "whitening": self.whitening}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        super().load(state)
        self.mean, self.whitening = state["mean"], state["whitening"]
