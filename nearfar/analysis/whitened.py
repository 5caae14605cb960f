"""PatchCore on whitened features, a bank for each feature map: small and large defects count alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.whitening import axes
from .coreset import Reservoir
from .patch_banks import MOST, PatchCore, flat, nearest_rows

RIDGE = 0.01  # of the mean variance, added to each direction's; more where patches are few
SHARE = 0.03  # of a picture's patches: the most anomalous ones, whose mean is its score on a map
FOLDS, MEASURED = 4, 32  # parts of the normal pictures, each scored by the others; pictures scored
DOUBT, GUESS = 8, 0.2  # so many pictures' worth of belief that a patch's share of a score spreads by a fifth


class WhitenedMap(PatchCore):
    """PatchCore on one feature map, with Mahalanobis distances by the covariance of all normal patches.

    A few directions hold most of the variance of an encoder's features, and a defect need not lie in them.
    Covariance and what is usual are those of the first pictures added, and stay as the bank grows.
    """

    name: ClassVar[str] = "whitened map"

    def __init__(self, seed: int = 0) -> None:
        """Begin with an empty bank; see `NearestPatch`."""
        super().__init__((0, 0), seed)
        self.mean, self.whitening = torch.zeros(0), torch.zeros(0, 0)
        self.usual = torch.ones(3)  # see `usual`

    def add(self, features: Tensor, owner: int, name: int) -> None:
        """Add the patches of a normal picture; see `NearestPatch.add`."""
        super().add(self._white(features), owner, name)

    def settle(self, without: frozenset[int] = frozenset()) -> None:
        """Measure covariance and what is usual, the first time, and choose the coreset."""
        if not len(self.mean):
            rows, owners, keys = self._all()
            kept = self._kept(owners, without)
            self.usual = usual(rows[kept], owners[kept])
            self.mean, self.whitening = whitening(rows[kept])
            self._new = Reservoir(self.read)
            self._new.add((rows - self.mean) @ self.whitening, owners, keys)
        super().settle(without)

    def _white(self, features: Tensor) -> Tensor:
        """Whiten (n, c, h, w), once the covariance is known."""
        if not len(self.mean):
            return features
        return ((features.permute(0, 2, 3, 1) - self.mean) @ self.whitening).permute(0, 3, 1, 2)

    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score pictures.

        Args:
            features: (n, c, h, w) float32.

        Returns:
            (n, h, w), distances of places over that of a normal patch, and (n,), scores of pictures in
            deviations above those of normal pictures.
        """
        white = self._white(features)
        away, _ = nearest_rows(flat(white), self.bank)
        places = away.view(len(features), *features.shape[2:])
        distance, score, deviation = self.usual
        return places / distance, (highest(places.flatten(1)) - score) / deviation

    def state(self) -> dict[str, Tensor]:
        """Give what a file has to hold."""
        return super().state() | {"mean": self.mean, "whitening": self.whitening, "usual": self.usual}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        super().load(state)
        self.mean, self.whitening, self.usual = state["mean"], state["whitening"], state["usual"]


def whitening(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Measure what takes patches to a space in which all directions vary alike.

    Args:
        rows: (m, c) patches.

    Returns:
        Their mean (c,), and (c, c) by which a difference to it is multiplied.
    """
    mean = rows.mean(0)
    away = rows - mean
    # Of few rows some directions look narrower than they are.
    directions, inverse = axes(away, RIDGE + rows.shape[1] / len(rows))
    return mean, (directions * inverse).float()


def usual(rows: Tensor, owners: Tensor) -> Tensor:
    """Score some normal pictures by the others, fold by fold; of a single picture one half by the other.

    Args:
        rows: (m, c) patches, in random order.
        owners: (m,) the pictures that they are of.

    Returns:
        The mean distance of a patch, and the median and the deviation of pictures' scores.
    """
    names = owners.unique()
    fold = torch.searchsorted(names, owners) % FOLDS if len(names) > 1 else torch.arange(len(rows)) % 2
    away, scores = [], []
    for number in range(int(fold.max()) + 1 if len(rows) > 1 else 0):
        inside = rows[fold != number]
        out = owners[fold == number].unique()[: MEASURED // FOLDS]
        mean, white = whitening(inside)
        bank = (inside[:MOST] - mean) @ white
        for name in out:
            asked = rows[(owners == name) & (fold == number)]
            away.append(nearest_rows((asked - mean) @ white, bank)[0])
            scores.append(highest(away[-1][None])[0])
    if not scores:  # one patch
        return torch.ones(3)
    found = torch.stack(scores)
    middle = found.median().clamp_min(1e-6)
    # By quartiles, since a few of the normal pictures may have defects.
    spread = (found.quantile(0.75) - found.quantile(0.25)) / 1.349
    guess = (GUESS * middle).square() / max(1.0, SHARE * len(torch.cat(away)) / len(found))
    square = (len(found) * spread.square() + DOUBT * guess) / (len(found) + DOUBT)
    return torch.stack([torch.cat(away).mean().clamp_min(1e-6), middle, square.sqrt()])


def highest(away: Tensor) -> Tensor:
    """Give the mean of the highest distances of each picture.

    Args:
        away: (n, m), of m patches.

    Returns:
        (n,).
    """
    return away.topk(max(1, round(SHARE * away.shape[1])), dim=1).values.mean(1)


class Whitened:
    """A bank for each feature map, whose scores are added up: a large defect shows on coarse maps.

    Each map is compared by itself, since in one vector the map with the most numbers decides. A picture's
    score is the mean over maps, in deviations above normal pictures. Its map is the mean over maps of
    distances, weighted by the places of each: a coarse map says that something is odd, a fine one where.

    Source:
        The distance is that of Rippel et al. 2020, "Modeling the distribution of normal data in pre-trained
        deep features for anomaly detection", section 3, here of patches and to the nearest one; the banks
        are PatchCore's.
    """

    name: ClassVar[str] = "whitened"

    def __init__(self, shape: tuple[int, int], seed: int = 0) -> None:
        """Begin without banks; the first picture tells how many maps there are.

        Args:
            shape: of no meaning here.
            seed: names the patches that are drawn.
        """
        self.seed = seed
        self.banks: list[WhitenedMap] = []

    def add(self, maps: Sequence[Tensor], owner: int, name: int) -> None:
        """Add the patches of a normal picture.

        Args:
            maps: each (1, c, h, w) float32, the finest first.
            owner, name: see `NearestPatch.add`.
        """
        self.banks = self.banks or [WhitenedMap(self.seed) for _ in maps]
        for bank, one in zip(self.banks, maps, strict=True):
            bank.add(one, owner, name)

    def settle(self, without: frozenset[int] = frozenset()) -> None:
        """Make the banks of what was added; see `NearestPatch.settle`."""
        for bank in self.banks:
            bank.settle(without)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Give all patches of the finest map held before `settle`, with their owners."""
        return self.banks[0].pooled()

    def score(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Score pictures.

        Args:
            maps: as for `add`, each (n, c, h, w).

        Returns:
            (n, h, w), the scores of places of the finest map: 1 is a normal patch's; and (n,), those of
            pictures: 0 is a normal picture's. Higher is more anomalous.
        """
        found = [bank.score(one) for bank, one in zip(self.banks, maps, strict=True)]
        shape = maps[0].shape[2:]
        weights = [one[0, 0].numel() / maps[0][0, 0].numel() for one in maps]
        places = [
            weight * F.interpolate(one[:, None], shape, mode="bilinear")[:, 0]
            for weight, (one, _) in zip(weights, found, strict=True)
        ]
        return torch.stack(places).sum(0) / sum(weights), torch.stack([score for _, score in found]).mean(0)

    def state(self) -> dict[str, Tensor]:
        """Give what a file has to hold."""
        return {
            f"{number}.{name}": value
            for number, bank in enumerate(self.banks)
            for name, value in bank.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        count = 1 + max(int(name.split(".")[0]) for name in state)
        self.banks = [WhitenedMap(self.seed) for _ in range(count)]
        for number, bank in enumerate(self.banks):
            start = f"{number}."
            bank.load(
                {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
            )
