"""Label-free metrics of features: how many directions they use, how evenly, and how stable under views.

Each is a function of features alone, (n, d), one row an image. None is a score to maximise by itself:
RankMe says how many directions carry something, alignment and agreement whether two views of an image
stay together, uniformity whether images fill the sphere. Read them together, and compare with those of an
untrained encoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core import rng
from ..features import knn
from ..losses import unit
from ..losses.logsumexp import log_sums

RANKS = (4, 50)  # of the eigenvalues, counted from 1, whose fall alpha-ReQ measures


def _double(z: Tensor) -> Tensor:
    return z.detach().double()


def _shares(values: Tensor, eps: float) -> float:
    """Give exp of the entropy of values that are made to sum to 1: how many of them count."""
    p = values / values.sum().clamp(min=1e-300) + eps
    return float(torch.exp(-(p * p.log()).sum()))


def rankme(z: Tensor) -> float:
    """Count the directions that features use, softly.

    Args:
        z: (n, d) features, not centred; n well above d.

    Returns:
        From 1, a collapse to one direction, to min(n, d).

    Source:
        Garrido et al. 2023, "RankMe", equations 1 and 2: exp of the entropy of the singular values, eps 1e-7.
    """
    return _shares(torch.linalg.svdvals(_double(z)), 1e-7)


def _spectrum(z: Tensor) -> Tensor:
    """Give the eigenvalues of the covariance, the greatest first."""
    z = _double(z)
    z = z - z.mean(0)
    return torch.linalg.svdvals(z).square() / max(1, len(z) - 1)


def alpha_req(z: Tensor) -> float:
    """Measure how fast the covariance's spectrum falls: eigenvalue k goes as k ** -alpha.

    Args:
        z: (n, d) features, d at least 2.

    Returns:
        alpha, by least squares of log eigenvalue on log k, weighted by 1 / k, over the eigenvalues `RANKS`
        above rounding; near 1 is held to be best, far above it few directions matter. NaN where fewer than
        two are left. The first ranks are left out, since they follow no law; the last, since a sample of a
        few times d images makes them too small.

    Source:
        Agrawal et al. 2022, "alpha-ReQ: assessing representation quality in self-supervised learning by
        measuring eigenspectrum decay"; the weights as in Stringer et al. 2019, "High-dimensional geometry of
        population responses in visual cortex".
    """
    values = _spectrum(z)
    values = values[values > values.max() * 1e-12]
    low = RANKS[0] if len(values) > 2 * RANKS[0] else 1
    k = torch.arange(low, min(RANKS[1], len(values)) + 1, dtype=torch.float64)
    if len(k) < 2:
        return math.nan
    weight = 1 / k / (1 / k).sum()
    x, y = k.log(), values[low - 1 : low - 1 + len(k)].log().cpu()
    x, y = x - weight @ x, y - weight @ y
    return float(-(weight @ (x * y)) / (weight @ x.square()))


def nesum(z: Tensor) -> float:
    """Sum the covariance's eigenvalues, each over the greatest.

    Args:
        z: (n, d) features.

    Returns:
        From 1, one direction, to d, all equal; 0 for constant features.

    Source:
        He and Ozay 2022, "Exploring the gap between collapsed and whitened features in self-supervised
        learning".
    """
    values = _spectrum(z)
    return float(values.sum() / values.max()) if values.max() > 0 else 0.0


def stable_rank(z: Tensor) -> float:
    """Divide the squared Frobenius norm by the squared spectral norm.

    Args:
        z: (n, d) features, not centred.

    Returns:
        From 1 to min(n, d); 0 for features that are all 0.

    Source:
        Rudelson and Vershynin 2007, "Sampling from large matrices".
    """
    values = torch.linalg.svdvals(_double(z)).square()
    return float(values.sum() / values.max()) if values.max() > 0 else 0.0


def lidar(groups: Tensor, eps: float = 1e-4) -> float:
    """Count the directions in which images differ more than views of one image.

    Args:
        groups: (images, views, d) features of several augmented views of each image; at least 2 of both.
        eps: added to the within-image covariance.

    Returns:
        From 1 to min(images - 1, d).

    Source:
        Thilak et al. 2024, "LiDAR: sensing linear probing performance in joint embedding SSL
        architectures", equations 1 to 4: exp of the entropy of the eigenvalues of
        W ** -1/2 B W ** -1/2, B between images, W within them.
    """
    z = _double(groups)
    middles = z.mean(1)
    between = middles - middles.mean(0)
    within = (z - middles[:, None]).flatten(0, 1)
    b = between.T @ between / (len(middles) - 1)
    w = within.T @ within / (len(middles) * (z.shape[1] - 1))
    w += eps * torch.eye(len(w), dtype=w.dtype, device=w.device)
    values, axes = torch.linalg.eigh(w)
    half = axes * values.rsqrt() @ axes.T
    return _shares(torch.linalg.eigvalsh(half @ b @ half).clamp(min=0), 1e-7)


def alignment(x: Tensor, y: Tensor) -> float:
    """Measure the distance of two views of an image, on the sphere.

    Args:
        x, y: (n, d) features of two views, row for row.

    Returns:
        The mean squared distance of the unit rows, 0 (the same) to 4 (opposite).

    Source:
        Wang and Isola 2020, "Understanding contrastive representation learning through alignment and
        uniformity on the hypersphere", equation 2, alpha = 2.
    """
    return float((unit(_double(x)) - unit(_double(y))).square().sum(1).mean())


def uniformity(z: Tensor) -> float:
    """Measure how evenly images fill the sphere.

    Args:
        z: (n, d) features of n images, at least 2.

    Returns:
        log of the mean over pairs of exp(-2 squared distance): 0 is a collapse to a point, about -4 the
        best.

    Source:
        Wang and Isola 2020, equation 3, t = 2.
    """
    rows = unit(_double(z))
    # exp(-2 |x - y|^2) = exp(4 x . y - 4) on unit rows
    sums = log_sums(rows, rows.new_tensor(4.0), wide=False)
    return float(sums.logsumexp(0) - math.log(len(rows) * (len(rows) - 1)) - 4.0)


def spread(z: Tensor) -> float:
    """Compare the deviation of unit features with that of an even sphere.

    Args:
        z: (n, d) features.

    Returns:
        The mean over directions of the standard deviation, times sqrt(d): 1 for an even sphere, 0 for a
        collapse.

    Source:
        Chen and He 2021, "Exploring simple Siamese representation learning", section 4.1.
    """
    return float(unit(_double(z)).std(0, correction=0).mean() * math.sqrt(z.shape[1]))


def agreement(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Measure whether two views of an image have the same neighbours.

    Args:
        x, y: (n, d) features of two views, row for row; n above k.
        k: neighbours compared.

    Returns:
        The mean share of common ones among the k nearest in either view, 0 to 1.
    """
    # Of rows equally near, as in a collapse, which come is not said: it must not be the same ones for both.
    shuffled = torch.from_numpy(rng.permutation(rng.fold(0, "agreement"), len(y))).to(y.device)
    near = [knn.top_k(z.float(), z.float(), k, exclude_self=True)[1] for z in (x, y[shuffled])]
    near[1] = shuffled[near[1]][shuffled.argsort()]
    return float((near[0][:, :, None] == near[1][:, None, :]).any(2).double().mean())
