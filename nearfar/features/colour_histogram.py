"""The colour histogram of an image: a simple baseline, strong where classes differ by colour.

Michael Swain and Dana Ballard, "Color indexing", International Journal of Computer Vision 7, 1991.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HUES, SATURATIONS, VALUES = 12, 4, 3
BINS = HUES * SATURATIONS * VALUES  # 144
GRID = 2  # the whole image, and each cell of a grid of 2 x 2


class ColourHistogram(nn.Module):
    """Shares of 144 bins of hue, saturation and value, in the whole image and its quarters.

    Shares stand as square roots, so that the product of two histograms is their Bhattacharyya coefficient.
    """

    dim = BINS * (1 + GRID * GRID)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images into histograms.

        Args:
            x: (n, 3, h, w) floats, RGB from 0 to 1, sides of at least 2.

        Returns:
            (n, 720) float32: the whole image first, then its quarters by rows; each part has length 1.
        """
        bins = hsv_bins(x)  # (n, h, w)
        down, across = bins.shape[1] // GRID, bins.shape[2] // GRID
        parts = [bins.flatten(1)]
        for row in range(GRID):
            for column in range(GRID):
                top, left = row * down, column * across
                bottom = bins.shape[1] if row == GRID - 1 else top + down
                right = bins.shape[2] if column == GRID - 1 else left + across
                parts.append(bins[:, top:bottom, left:right].flatten(1))
        return torch.cat([_shares(part).sqrt() for part in parts], dim=1)


def hsv_bins(x: Tensor) -> Tensor:
    """Give each pixel the number of its colour's bin.

    Args:
        x: (n, 3, h, w) floats, RGB from 0 to 1.

    Returns:
        (n, h, w) int64 from 0 to 143. Hue is that of the hexagonal HSV model; a grey pixel has hue 0.
    """
    r, g, b = x.float().clamp(0, 1).unbind(1)
    value, low = x.float().clamp(0, 1).amax(1), x.float().clamp(0, 1).amin(1)
    chroma = value - low
    safe = chroma.clamp_min(1e-12)
    hue = torch.where(
        value == r, (g - b) / safe % 6, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    hue = torch.where(chroma > 0, hue / 6, torch.zeros_like(hue))  # 0 to 1
    saturation = chroma / value.clamp_min(1e-12)

    def place(share: Tensor, count: int) -> Tensor:
        return (share * count).long().clamp(0, count - 1)

    return (place(hue, HUES) * SATURATIONS + place(saturation, SATURATIONS)) * VALUES + place(value, VALUES)


def _shares(bins: Tensor) -> Tensor:
    """Count the bins of each row, as shares of the row."""
    counts = torch.zeros(len(bins), BINS, device=bins.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float32))
    return counts / bins.shape[1]
