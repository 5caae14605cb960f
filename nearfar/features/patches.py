"""Features of whitened patches: k-means on small patches, one layer, four quadrants.

Adam Coates, Honglak Lee and Andrew Ng, "An analysis of single-layer networks in unsupervised feature
learning", AISTATS 2011; the spherical k-means, the threshold and its two signs: Adam Coates and Andrew Ng,
"Learning feature representations with k-means", 2012, sections 3 to 5. It takes a minute or two of a CPU and
no gradients, and beats many small networks in the linear row: a fair baseline for minutes of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 6  # side of a patch, in pixels
CENTRES = 200
FLAT = 10.0 / 255**2  # added to a patch's variance, so that flat patches are not blown up to noise
EVEN = 0.1  # added to the eigenvalues in whitening
THRESHOLD = 0.25  # below which an answer counts as none
ROUNDS = 20  # of k-means
AT_ONCE = 1 << 20  # answers computed at a time


class Patches(nn.Module):
    """How much of each centre stands in each quarter of an image, as (n, 8 x centres) numbers."""

    weight: Tensor
    offset: Tensor

    def __init__(self, centres: Tensor, mean: Tensor, whitening: Tensor) -> None:
        """Fold whitening and centres into one convolution.

        Args:
            centres: (k, 108) of length 1, in whitened space.
            mean: (108,) of the normalised patches.
            whitening: (108, 108), symmetric.
        """
        super().__init__()
        folded = centres @ whitening  # (k, 108)
        level = folded - folded.mean(1, keepdim=True)  # of each patch its mean is subtracted
        self.register_buffer("weight", level.view(-1, 3, PATCH, PATCH))
        self.register_buffer("offset", folded @ mean)
        self.dim = 8 * len(centres)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (n, 3, h, w) floats from 0 to 1, sides of at least 12.

        Returns:
            (n, 8 k) float32: for each quarter the mean of each centre's answers, and of their opposites.
        """
        x = x.float()
        # (p - mean(p)) / std(p) for every patch p, without cutting patches out: the weights have mean 0, and
        # the answers are divided. A few images at a time, so that the answers stay in the cache.
        mean = F.avg_pool2d(x, PATCH, 1).mean(1, keepdim=True)
        square = F.avg_pool2d(x.square(), PATCH, 1).mean(1, keepdim=True)
        inverse = (square - mean.square()).clamp_min(0).add(FLAT).rsqrt()
        at_once = max(1, AT_ONCE // (len(self.weight) * inverse[0].numel()))
        parts = [self._encode(*some) for some in zip(x.split(at_once), inverse.split(at_once), strict=True)]
        return torch.cat(parts) if parts else x.new_zeros(0, self.dim)

    def _encode(self, x: Tensor, inverse: Tensor) -> Tensor:
        answer = F.conv2d(x, self.weight).mul_(inverse).sub_(self.offset.view(1, -1, 1, 1))
        above = F.adaptive_avg_pool2d((answer - THRESHOLD).relu_(), 2)
        below = F.adaptive_avg_pool2d(answer.neg_().sub_(THRESHOLD).relu_(), 2)
        return torch.cat([above, below], dim=1).flatten(1)


def cut(x: Tensor, generator: torch.Generator, each: int) -> Tensor:
    """Cut patches out of images at random places, and normalise their brightness and contrast.

    Args:
        x: (n, 3, h, w) floats from 0 to 1, sides of at least 6.
        generator: draws the places.
        each: patches an image.

    Returns:
        (n x each, 108).
    """
    top = torch.randint(x.shape[2] - PATCH + 1, (len(x), each), generator=generator)
    left = torch.randint(x.shape[3] - PATCH + 1, (len(x), each), generator=generator)
    inner = torch.arange(PATCH)
    rows = top[:, :, None, None] + inner[:, None]
    columns = left[:, :, None, None] + inner
    found = x.float()[torch.arange(len(x))[:, None, None, None], :, rows, columns]  # (n, each, 6, 6, 3)
    flat = found.movedim(-1, 2).reshape(len(x) * each, -1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + FLAT).sqrt()


def fit(batches: Iterator[Tensor], seed: int, *, centres: int = CENTRES, patches: int = 100_000) -> Patches:
    """Learn the centres from some images, without labels.

    Args:
        batches: (n, 3, h, w) floats from 0 to 1; patches are cut until there are enough.
        seed: of the places and of the first centres.
        centres: how many.
        patches: about how many patches to learn from.

    Returns:
        The encoder.
    """
    generator = torch.Generator().manual_seed(seed)
    found, count = [], 0
    for x in batches:
        found.append(cut(x.cpu(), generator, each=max(1, math.ceil(patches / (16 * len(x))))))
        count += len(found[-1])
        if count >= patches:
            break
    flat = torch.cat(found)
    mean = flat.mean(0)
    values, axes = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    whitening = axes @ torch.diag((values.clamp_min(0) + EVEN).rsqrt()) @ axes.T
    return Patches(spherical_kmeans((flat - mean) @ whitening, centres, generator), mean, whitening)


def spherical_kmeans(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Find directions such that each row is near one of them.

    Args:
        x: (n, d), n at least 1.
        count: how many directions.
        generator: draws the first ones.

    Returns:
        (count, d) of length 1; each is the sum of its rows' shares along it, as in the source's equation 4.
    """
    d = F.normalize(torch.randn(count, x.shape[1], generator=generator), dim=1)
    for _ in range(ROUNDS):
        along = x @ d.T  # (n, count)
        best = along.abs().argmax(1)
        weight = along.gather(1, best[:, None])  # with its sign
        moved = d.clone().index_add_(0, best, x * weight)
        d = F.normalize(moved, dim=1)
    return d
