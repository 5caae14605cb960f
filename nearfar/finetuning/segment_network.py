"""An encoder with a decoder that classifies every pixel, and the loss of crops with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pixel_labels import IGNORED
from ..features.pixel_features import COUNT, colour_features
from ..methods.base import Batch, Loss
from ..models import Encoder
from ..models.pixel_heads import HEADS
from .task import TaskNetwork


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


class SegmentationNetwork(TaskNetwork):
    """An encoder with a decoder; the loss is cross-entropy and Dice.

    Batch norm of an encoder that was trained before keeps its statistics: those of a few images are worse.
    """

    def __init__(self, f: Encoder, head: PixelHead, frozen: bool) -> None:
        """Join them; a frozen encoder builds no graph."""
        super().__init__(f.requires_grad_(not frozen), None)
        self.head, self.frozen, self.still = head, frozen, frozen or not f.untrained

    def train(self, mode: bool = True) -> Self:
        """Set the mode; of an encoder that was trained before, batch norm stays in eval mode."""
        super().train(mode)
        if self.still:
            self.f.eval()
        return self

    def logits(self, x: Tensor) -> Tensor:
        """Give (n, C, h, w) of images (n, 3, h, w) whose sides the strides divide."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.f.maps(x)
        return self.head(x, maps)

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
