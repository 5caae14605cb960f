"""Whitens the vectors of a finished encoder in part, so that no few directions decide what is near.

Some directions of a network's features vary a hundred times as much as others, and say no more: cosines
between raw vectors are decided by few of them. Whitened wholly, the noise of the many small ones decides
where a class has few labels. Both measured in docs/decisions.md, "The CPU recipe".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..core import rng
from ..core.device import compute_threads
from ..core.threads import one_torch_thread
from ..data.dataset import Subset
from ..models import Encoder
from .extract import features

BATCH = 32  # images that a thread encodes at once
IMAGES = 4096  # by which the covariance is measured
LEAST = 0.3  # of the mean deviation: features that move less than this are not brought up to the others
POWER = 0.35  # of each direction's variance by which it is divided: 0 leaves all, 0.5 whitens wholly
RIDGE = 1.0  # of the mean variance, added to each direction's: small ones are mostly noise


def whitening(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure what makes vectors vary more alike in every direction, and otherwise stay as they are.

    Args:
        x: (n, d) float64 vectors.

    Returns:
        Their mean (d,), and (d, d) by which what is left is multiplied: features are standardised, each
        direction is divided by a power of its variance, and all is turned back, so that each number still
        belongs to its feature (ZCA, which divides by the root).

    Source:
        Jegou and Chum 2012, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA
        and whitening", section 3; turned back as in Kessy et al. 2018, "Optimal whitening and decorrelation".
    """
    mean = x.mean(0)
    deviation = (x - mean).square().mean(0).sqrt()
    # What hardly moves in these images may move much in others, or is rounding.
    scale = 1 / deviation.clamp_min((LEAST * deviation.mean()).clamp_min(1e-12))
    z = (x - mean) * scale
    directions, inverse = axes(z, RIDGE)
    return mean, scale[:, None] * ((directions * inverse ** (2 * POWER)) @ directions.T)


def axes(away: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the directions in which vectors vary, and how much.

    Args:
        away: (n, d) vectors, less their mean.
        ridge: share of the mean variance that is added to each direction's.

    Returns:
        Float64: (d, d), a direction a column, and (d,) one over the deviation along each.
    """
    values, directions = torch.linalg.eigh((away.T @ away / len(away)).double())
    values = values.clamp_min(0)
    return directions, (values + ridge * values.mean().clamp_min(1e-12)).rsqrt()


def is_whitened(encoder: Encoder) -> bool:
    """Tell whether an encoder has a whitening of its vectors, as `models.finished` gives it."""
    return "whitening" in dict(encoder.net.named_buffers(recurse=False))


def whiten(encoder: Encoder, dataset: Any, preprocess: Any, *, seed: int, device: str = "cpu") -> None:
    """Fit the whitening of an encoder that has one to some images, in place; others stay as they are.

    Args:
        encoder: from `models.finished`.
        dataset: images that it was trained on.
        preprocess: what they need.
        seed: names the images.
        device: where to compute.
    """
    if not is_whitened(encoder) or len(dataset) < 2:
        return
    held = dict(encoder.net.named_buffers(recurse=False))
    held["mean"].zero_()
    held["whitening"].copy_(torch.eye(len(held["mean"])))
    rows = np.sort(rng.permutation(rng.fold(seed, "whitening"), len(dataset))[:IMAGES])
    # The same batches and one thread for the algebra, so that a run's bytes do not depend on the threads.
    size = BATCH * compute_threads()
    x = features(encoder, Subset(dataset, rows), preprocess, device=device, batch_size=size)
    with one_torch_thread():
        made = whitening(torch.from_numpy(x).double())
    for name, value in zip(("mean", "whitening"), made, strict=True):
        held[name].copy_(value)
