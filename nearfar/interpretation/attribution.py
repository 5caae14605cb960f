"""Finds which parts of two images make them similar, and tests that by deleting the parts.

The gradient of the similarity is followed from a blurred image to the image itself. What each pixel adds on
the way is summed over the cells of a grid. The sum over all cells is what the blurred image lacked. The cells
of a vision transformer are its patches: a token is a linear function of its patch's pixels, so what they add
together is what the token adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import rng
from ..core.errors import NearfarError
from ..features.knn import unit
from .invariance import blurred

CELLS = 8  # of the grid, a side
PATCHES = range(4, 17)  # of a transformer, a side, that are the cells instead
STEPS = 8  # on the way from the blurred image
BLUR = 1 / 6  # of a deleted part, as a share of the image's side
ORDERS = 4  # random orders that a deletion is compared with
POINTS = 9  # of a deletion curve


def grid(encoder: nn.Module, side: int) -> int:
    """Tell how many cells a side an image has.

    Args:
        encoder: of images.
        side: of an image, in pixels.

    Returns:
        A transformer's patches a side, if they are neither few nor many; else `CELLS`, or fewer pixels.
    """
    try:
        patch = getattr(encoder, "patch", 0)
    except NearfarError:  # no transformer, or one of unknown patches
        patch = 0
    if patch and side % patch == 0 and side // patch in PATCHES:
        return int(side // patch)
    return min(CELLS, side)


def attribute(
    encoder: nn.Module, x: Tensor, towards: Tensor, centre: Tensor, *, steps: int = STEPS
) -> Tensor:
    """Find how much each part of some images adds to a similarity.

    Args:
        encoder: (n, 3, side, side) to (n, d), in eval mode.
        x: (n, 3, side, side) images in [0, 1].
        towards: (n, d) for each image the vector that it is similar to, less `centre`.
        centre: (d,) mean vector of the collection, so that what all images share does not count.
        steps: on the way from the blurred image.

    Returns:
        (n, c, c): what each cell adds to the cosine; c is what `grid` tells.

    Source:
        Sundararajan et al. 2017, "Axiomatic attribution for deep networks", section 3 (integrated gradients).
    """
    start = blurred(x, BLUR)
    total = torch.zeros_like(x)
    for step in range(steps):
        at = (start + (step + 0.5) / steps * (x - start)).requires_grad_()
        (gradient,) = torch.autograd.grad(_cosine(encoder, at, towards, centre).sum(), at)
        total += gradient
    added = (total / steps * (x - start)).sum(1, keepdim=True)
    cells = grid(encoder, x.shape[-1])
    each = x.shape[-1] ** 2 / cells**2  # a cell's sum, from its mean
    return F.adaptive_avg_pool2d(added, cells)[:, 0] * each


def _cosine(encoder: nn.Module, x: Tensor, towards: Tensor, centre: Tensor) -> Tensor:
    """Compare images' vectors with given ones (n, d), both less the centre: (n,)."""
    return (F.normalize(encoder(x) - centre, dim=1) * unit(towards)).sum(1)


@torch.no_grad()
def deletion(
    encoder: nn.Module, x: Tensor, towards: Tensor, centre: Tensor, scores: Tensor, *, points: int = POINTS
) -> Tensor:
    """Measure what is left of a similarity while an image's cells are deleted, those of high scores first.

    Args:
        encoder, x, towards, centre: as for `attribute`.
        scores: (n, c, c) of the cells.
        points: of the curve.

    Returns:
        (n, points) cosines: of the whole image first, of the image with all cells deleted last. To delete a
        cell is to blur it.

    Source:
        Petsiuk et al. 2018, "RISE", section 4.3 (the deletion metric).
    """
    start, cells = blurred(x, BLUR), scores.shape[-1] ** 2
    rank = scores.flatten(1).argsort(1, descending=True).argsort(1)
    found = []
    for share in np.linspace(0, 1, points):
        gone = (rank < round(share * cells)).float().view(-1, 1, *scores.shape[1:])
        mask = F.interpolate(gone, x.shape[-1], mode="nearest")
        found.append(_cosine(encoder, x + mask * (start - x), towards, centre))
    return torch.stack(found, 1)


@dataclass(frozen=True)
class Deletion:
    """Whether the parts that were found matter more than others.

    Attributes:
        own: mean similarity left, by the share of cells deleted in the order of attribution.
        random: the same in random orders.
        images: how many images, two a pair.
        better: in how many of them the order of attribution lowers the similarity faster.
    """

    own: tuple[float, ...]
    random: tuple[float, ...]
    images: int
    better: int

    @property
    def margin(self) -> float:
        """How much further the similarity falls than in random orders, on average over all shares."""
        return float(np.mean(self.random) - np.mean(self.own))

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "own": list(self.own),
            "random": list(self.random),
            "margin": self.margin,
            "images": self.images,
            "better": self.better,
        }


def check(
    encoder: nn.Module,
    x: Tensor,
    towards: Tensor,
    centre: Tensor,
    scores: Tensor,
    seed: int = 0,
    points: int = POINTS,
) -> Deletion:
    """Compare deletion in the order of attribution with deletion in random orders.

    Args:
        encoder, x, towards, centre, scores, points: as for `deletion`.
        seed: names the random orders.
    """
    own = deletion(encoder, x, towards, centre, scores, points=points)
    drawn = rng.uniform(rng.fold(seed, "deletion"), np.arange(ORDERS * len(x)), scores[0].numel())
    orders = torch.from_numpy(drawn).to(scores.device).view(ORDERS, *scores.shape)
    by_chance = torch.stack(
        [deletion(encoder, x, towards, centre, one, points=points) for one in orders]
    ).mean(0)
    better = int((own.mean(1) < by_chance.mean(1)).sum())
    return Deletion(tuple(own.mean(0).tolist()), tuple(by_chance.mean(0).tolist()), len(x), better)


def joined(parts: Sequence[Deletion]) -> Deletion:
    """Put the tests of several batches together.

    Args:
        parts: at least one.
    """
    count = sum(one.images for one in parts)

    def mean(curves: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
        found: list[float] = np.average(curves, axis=0, weights=[one.images for one in parts]).tolist()
        return tuple(found)

    own, by_chance = mean([one.own for one in parts]), mean([one.random for one in parts])
    return Deletion(own, by_chance, count, sum(one.better for one in parts))
