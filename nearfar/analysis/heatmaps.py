"""Shows where in an image the anomaly is: patches compared with those of normal images, place by place.

The encoder's feature maps see a patch of the image at each place. A memory holds patches of normal
images, thinned out so that no kind is missing; the score of a patch is its distance to the nearest of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core import rng
from ..core.errors import NearfarError
from ..data.loader import Examples
from ..features.extract import features
from ..models import Encoder
from .coreset import k_center

LEVELS, LEAST = 2, 8  # maps used: the coarsest two of at least so many places a side
SHARE, MOST = 0.1, 2000  # of the normal patches that are kept, and how many at most
READ = 30_000  # normal patches that are used, at most
# Violet over red to yellow, growing steadily lighter for colour-blind eyes; none of it is grey.
RAMP = np.array([[48, 7, 94], [128, 37, 130], [205, 63, 98], [246, 130, 66], [252, 230, 120]], np.float64)

Maps = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]


def planes(encoder: Encoder, x: Tensor) -> Tensor:
    """Give the features of each place of some images, with their surroundings.

    Args:
        encoder: a residual or other convolutional network, or a vision transformer.
        x: (n, 3, side, side) in [0, 1].

    Returns:
        (n, c, h, h): of each map the mean over 3 x 3 places, the coarser enlarged to the finer, scaled so
        that each map counts alike, one above the other.

    Raises:
        NearfarError: the network has no feature maps.

    Source:
        Roth et al. 2022, "Towards total recall in industrial anomaly detection" (PatchCore), section 3.1.
    """
    maps = [one.float() for one in encoder.maps(x)][::-1]  # coarsest first
    chosen = [one for one in maps if one.shape[2] >= LEAST][:LEVELS] or maps[-1:]
    side = chosen[-1].shape[2]
    if side < 2:
        raise NearfarError(
            f"the feature maps of {encoder.name!r} are 1 x 1, too small for heat maps; leave --heat-maps out."
        )
    parts = [functional.avg_pool2d(one, 3, 1, 1, count_include_pad=False) for one in chosen]
    wide = [functional.interpolate(part, side, mode="bilinear", align_corners=False) for part in parts]
    return torch.cat([functional.normalize(part, dim=1) for part in wide], dim=1)


@dataclass(frozen=True)
class Memory:
    """Patches of normal images, (m, c) float32, and the encoder and input that they were seen with."""

    encoder: Encoder
    preprocess: Any
    patches: Tensor

    def maps(self, images: Examples) -> Maps:
        """Score each place of some images.

        Args:
            images: n images.

        Returns:
            (n, size, size) distances to the nearest normal patch, enlarged smoothly to the encoder's input;
            higher is more anomalous. The greatest of an image is its score.
        """
        size = self.preprocess.size

        def distances(x: Tensor) -> Tensor:
            found = planes(self.encoder, x)
            flat = found.permute(0, 2, 3, 1).flatten(0, 2)
            far = torch.cat([torch.cdist(part, self.patches).amin(1) for part in flat.split(4096)])
            plane = far.reshape(len(x), 1, found.shape[2], -1)
            return functional.interpolate(plane, size, mode="bicubic", align_corners=False).flatten(1)

        return features(_As(self.encoder, distances), images, self.preprocess, batch_size=32).reshape(
            -1, size, size
        )


class _As(nn.Module):
    """Replaces the output of the encoder."""

    def __init__(self, encoder: Encoder, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.how = encoder, how

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> (n, anything)."""
        return self.how(x)


def remember(encoder: Encoder, preprocess: Any, normal: Examples, seed: int = 0) -> Memory:
    """Remember what patches of normal images look like.

    Args:
        encoder: as for `planes`.
        preprocess: how an image becomes its input.
        normal: normal images; some hundred are plenty.
        seed: random seed.

    Returns:
        The memory: a tenth of the patches, `MOST` at most, chosen so that each is near a kept one.

    Raises:
        NearfarError: the network has no feature maps.

    Source:
        Roth et al. 2022, section 3.2; the choice is `coreset.k_center`.
    """
    key, width = rng.fold(seed, "patches"), 1

    def some(x: Tensor) -> Tensor:
        nonlocal width
        rows = planes(encoder, x).flatten(2).transpose(1, 2)  # (n, places, c)
        width = rows.shape[2]
        # Named by what an image shows, since threads ask for batches in any order.
        names = [hashlib.blake2b(one.numpy().tobytes(), digest_size=8).digest() for one in x.cpu()]
        numbers = np.frombuffer(b"".join(names), np.uint64)
        order = rng.uniform(key, numbers, rows.shape[1]).argsort(axis=1)
        kept = torch.from_numpy(order[:, : max(1, READ // len(normal))])
        return rows.take_along_dim(kept[:, :, None].to(rows.device), 1).flatten(1)

    flat = features(_As(encoder, some), normal, preprocess, batch_size=32)
    patches = torch.from_numpy(flat).reshape(-1, width)
    count = max(1, min(MOST, int(len(patches) * SHARE)))
    return Memory(encoder, preprocess, patches[k_center(patches, count, key)].contiguous())


def overlay(pixels: Picture, heat: npt.NDArray[np.float32], low: float, high: float) -> Picture:
    """Lay a heat map over the image that the encoder saw.

    Args:
        pixels: (size, size, 3) the encoder's input.
        heat: (size, size).
        low, high: what is dark and clear, and what is brightest and covers most; one scale for all images
            that are to be compared.

    Returns:
        (size, size, 3): the image in grey, the anomalous places in colours from violet to yellow.
    """
    t = np.clip((heat.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    at = t * (len(RAMP) - 1)
    base = np.minimum(at.astype(int), len(RAMP) - 2)
    colour = RAMP[base] + (at - base)[..., None] * (RAMP[base + 1] - RAMP[base])
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    cover = np.minimum(0.8, 2 * t)[..., None]
    mixed: Picture = np.rint((1 - cover) * grey[..., None] + cover * colour).astype(np.uint8)
    return mixed
