"""An encoder with a decoder that classifies every pixel, and the loss of crops with masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pixel_labels import IGNORED
from ..features.pixel_features import COUNT, colour_features
from ..methods.base import Batch, Loss
from ..models.pixel_heads import HEADS
from .maps_network import MapsNetwork


class PixelHead(nn.Module):
    """A decoder on feature maps and on scaled colour features."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, decoder: str, widths: Sequence[int], classes: int) -> None:
        """Build it; the arguments are those of `models.pixel_heads`."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, COUNT, 1, 1))
        self.register_buffer("deviation", torch.ones(1, COUNT, 1, 1))
        self.decoder = HEADS[decoder](widths, classes, COUNT)

    @torch.no_grad()
    def scale_by(self, x: Tensor) -> None:
        """Take mean and deviation of the colour features from some images, (n, 3, h, w)."""
        found = colour_features(x)
        self.mean.copy_(found.mean((0, 2, 3), keepdim=True))
        self.deviation.copy_(found.std((0, 2, 3), keepdim=True).clamp_min(1e-3))

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Turn images (n, 3, h, w) and their maps into (n, C, h, w) logits."""
        colours = ((colour_features(x) - self.mean) / self.deviation).to(maps[0].dtype)
        return self.decoder(maps, colours)


class SegmentationNetwork(MapsNetwork):
    """An encoder with a decoder; the loss is cross-entropy and Dice."""

    head: PixelHead

    def logits(self, x: Tensor) -> Tensor:
        """Give (n, C, h, w) of images (n, 3, h, w) whose sides the strides divide."""
        logits: Tensor = self.head(x, self.maps(x))
        return logits

    def forward(self, batch: Batch) -> Loss:
        """Give the loss of crops and their class numbers."""
        x, y = batch.views
        z = self.logits(x).float()
        kept = y != IGNORED
        at = y.where(kept, 0)
        count = kept.sum().clamp_min(1)
        entropy = (F.cross_entropy(z, at, reduction="none") * kept).sum() / count
        p = z.softmax(1) * kept[:, None]
        t = F.one_hot(at, z.shape[1]).movedim(3, 1) * kept[:, None]
        both, total = (p * t).sum((0, 2, 3)), (p + t).sum((0, 2, 3))
        return Loss({"cross_entropy": entropy, "dice": 1 - ((2 * both + 1) / (total + 1)).mean()})


class PixelLogits(nn.Module):
    """Images to logits of their pixels."""

    def __init__(self, network: SegmentationNetwork) -> None:
        """Take a trained network."""
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Give (n, C, h, w) of (n, 3, h, w)."""
        logits: Tensor = self.network.head(x, list(self.network.f.maps(x)))
        return logits.float()
