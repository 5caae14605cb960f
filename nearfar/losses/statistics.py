"""Means, products and spreads of features over the rows of all processes, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import collectives, distributed
from .contrastive import unit


def centred(z: Tensor) -> Tensor:
    """Subtract each feature's mean, in float32 at least.

    Args:
        z: (n, d) floating point, this process's rows.

    Returns:
        (n, d) float32, or float64 where `z` is; over all processes each column adds up to 0.
    """
    z = z if z.dtype == torch.float64 else z.float()
    mean: Tensor = collectives.total(z.sum(0)) / (len(z) * distributed.world())
    return z - mean


def products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply every feature of one side with every feature of the other, and add over all rows.

    Args:
        a: (n, d) float32 or float64, this process's rows; as many on every process.
        b: (n, e) of the same type, row for row.

    Returns:
        (d, e), the same on every process; autocast does not touch it.
    """
    with torch.autocast(a.device.type, enabled=False):
        return collectives.total(a.T @ b)


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """Tell how widely features of unit length are spread: about 1 on the whole sphere, 0 in one point.

    Every process must call it at the same time.

    Args:
        z: (n, d) floating point, any length, this process's rows.

    Returns:
        A scalar: the mean over the features of their standard deviation, times sqrt(d).

    Source:
        Chen and He 2021, "Exploring simple Siamese representation learning", section 4.1.
    """
    z = centred(unit(z))
    variance: Tensor = collectives.total(z.square().sum(0)) / (len(z) * distributed.world())
    return variance.sqrt().mean() * z.shape[1] ** 0.5


@torch.no_grad()
def variance_explained(y: Tensor, x: Tensor) -> Tensor:
    """Tell which share of the variance of x over the rows y predicts; every process must call it.

    Args:
        y: (n, ...) float32 or float64, predictions, this process's rows.
        x: the same shape.

    Returns:
        A scalar: 1 minus the squared error over the squared distance from the mean row, and at least 0.
    """
    error = collectives.total((y - x).square().sum())
    variance = collectives.total(centred(x).square().sum())
    return (1 - error / variance.clamp(min=1e-12)).clamp(min=0)
