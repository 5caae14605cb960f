"""Encoders of sound: convolutions over a spectrogram, then features of each frame, pooled over time.

A vector holds the mean plus the maximum over the whole time, as in BYOL-A, and the mean over each of some
equal parts of it, without which the order of sounds in a word would be lost. So a clip may have any number of
frames; bands are averaged to a fixed number of rows, so a spectrogram may have any number of bands.

Source: Niizumi et al. 2021, "BYOL for audio", for the convolutions and the first pool, here narrower;
Lazebnik et al. 2006, "Beyond bags of features", for the parts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import NearfarError, nearest
from ..models import Encoder, seeded

SHAPES = {"mel_cnn_w32": (32, 64), "mel_cnn_w64": (64, 128)}
"""By name, the width of the convolutions and the features of a frame."""
ROWS = 5  # to which bands are averaged after the convolutions
PARTS = 6  # of the time, each with its own mean


class MelCNN(nn.Module):
    """Three convolutions with batch norm, which halve the bands, and two the frames; a layer a frame."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        widths = (1, width, width, 2 * width)
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.frame = nn.Linear(ROWS * widths[-1], features)
        self.dim = (1 + PARTS) * features
        self.norm = nn.BatchNorm1d(self.dim, affine=False)

    def frames(self, x: Tensor) -> Tensor:
        """Compute the features of each frame.

        Args:
            x: (n, 1, mels, frames).

        Returns:
            (n, features, about frames / 4).
        """
        for stage, pool in zip(self.convolutions, ((2, 2), (2, 2), (2, 1)), strict=True):
            x = F.max_pool2d(stage(x), pool, ceil_mode=True)
        x = F.adaptive_avg_pool2d(x, (ROWS, x.shape[3]))  # (n, c, rows, t)
        return self.frame(x.permute(0, 3, 1, 2).flatten(2)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Encode spectrograms, (n, 1, mels, frames), to (n, dim)."""
        return self.pool(self.frames(x))

    def pool(self, h: Tensor) -> Tensor:
        """Bring the features of frames, (n, features, t), into one vector, (n, dim)."""
        parts = F.adaptive_avg_pool1d(h, PARTS).flatten(1)
        vector: Tensor = self.norm(torch.cat([h.mean(dim=2) + h.amax(dim=2), parts], dim=1))
        return vector


def encoder(name: str, *, size: int | None, weights: str | None = None, seed: int = 0) -> Encoder:
    """Build an encoder of sound on the CPU; see `Modality.encoder`.

    Args:
        name: one of `SHAPES`.
        size: frames of its input.
        weights: none but random ones can be had.
        seed: names them.

    Raises:
        NearfarError: there is no such network.
    """
    if name not in SHAPES:
        raise NearfarError(f"there is no encoder {name!r} of sound; {nearest(name, SHAPES)}")
    if weights is not None:
        raise NearfarError(f"--weights {weights} is no run on sound; leave it out, or give a run's folder.")
    with seeded(seed, "encoder", name):
        net = MelCNN(*SHAPES[name])
        return Encoder(net, net.dim, name, "standard", size)
