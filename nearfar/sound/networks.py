"""Encoders of sound: convolutions over a spectrogram, then features of each frame, pooled over time.

The pool is the mean plus the maximum over time, so a clip may have any number of frames, and the bands are
averaged to a fixed number of rows, so a spectrogram may have any number of bands.

Source: the network and its pool are those of Niizumi et al. 2021, "BYOL for audio", here narrower.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import NearfarError, nearest
from ..models import Encoder, seeded

SHAPES = {"mel_cnn_w32": (32, 256), "mel_cnn_w64": (64, 512)}
"""By name, the width of the convolutions and the numbers in a vector."""
ROWS = 4  # to which bands are averaged after the convolutions


class MelCNN(nn.Module):
    """Three convolutions with batch norm, of which each halves both sides, and two layers for each frame."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        widths = (1, width, width, 2 * width)
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in zip(widths, widths[1:], strict=False)
            )
        )
        self.frame = nn.Sequential(
            nn.Linear(ROWS * widths[-1], dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()
        )

    def frames(self, x: Tensor) -> Tensor:
        """Compute the features of each frame.

        Args:
            x: (n, 1, mels, frames).

        Returns:
            (n, about frames / 8, dim).
        """
        for stage in self.convolutions:
            x = F.max_pool2d(stage(x), 2, ceil_mode=True)
        x = F.adaptive_avg_pool2d(x, (ROWS, x.shape[3]))  # (n, c, rows, t)
        return self.frame(x.permute(0, 3, 1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """Encode spectrograms, (n, 1, mels, frames), to (n, dim)."""
        h = self.frames(x)
        return h.mean(dim=1) + h.amax(dim=1)


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
        width, dim = SHAPES[name]
        return Encoder(MelCNN(width, dim), dim, name, "standard", size)
