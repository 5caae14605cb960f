"""Describes an image by its colours alone and by its shapes alone, untrained, so that they can be compared.

Colours: shares of hue and saturation, wherever they stand in the image (Swain and Ballard, "Color indexing",
IJCV 1991). Shapes, of the grey image: shares of edge directions in a grid of cells (after Dalal and Triggs,
"Histograms of oriented gradients for human detection", CVPR 2005), and the features of a random network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import models
from ..core.moments import moments
from .colour_histogram import HUES, SATURATIONS, VALUES, hsv_bins
from .knn import top_k, unit

SIDE = 32  # pixels to which images are reduced first
CELLS, DIRECTIONS = 4, 8  # a side; of half a turn
FLOOR = 0.03  # contrast below which a grey image is not stretched further
NEAR = 0.01  # share of the other images that count as an image's neighbours
TINT = 1e-6  # variance of colours below which a collection has none
GREY = (0.299, 0.587, 0.114)


class Colours(nn.Module):
    """Square roots of the shares of 48 bins of hue and saturation."""

    dim = HUES * SATURATIONS

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (n, 3, h, w), RGB from 0 to 1, into (n, 48) of length 1."""
        return _shares(hsv_bins(x).flatten(1) // VALUES, None, self.dim)


class Shapes(nn.Module):
    """Edge directions in 4 x 4 cells, and an untrained network's features, of grey images of one contrast."""

    def __init__(self) -> None:
        """Make the network, always the same one."""
        super().__init__()
        self.net = models.encoder("resnet8", size=SIDE, seed=0)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (n, 3, h, w), RGB from 0 to 1, into (n, 128 + d): the edges first, of length 1."""
        grey = (x.float() * x.new_tensor(GREY).view(1, 3, 1, 1)).sum(1)
        mean, variance = moments(grey, (1, 2), keepdim=True, correction=1)
        level = (grey - mean) / (variance.sqrt() + FLOOR)
        down, across = level[:, 1:, :-1] - level[:, :-1, :-1], level[:, :-1, 1:] - level[:, :-1, :-1]
        turn = torch.atan2(down, across).remainder(torch.pi) / torch.pi
        direction = (turn * DIRECTIONS).long().clamp(0, DIRECTIONS - 1)
        rows, columns = (torch.arange(count) * CELLS // count for count in level[0, 1:, 1:].shape)
        cell = (rows[:, None] * CELLS + columns).to(x.device)
        bins = (cell * DIRECTIONS + direction).flatten(1)
        edges = _shares(bins, torch.hypot(down, across).flatten(1), CELLS * CELLS * DIRECTIONS)
        maps = self.net.maps((0.25 * level + 0.5)[:, None].expand(-1, 3, -1, -1))
        pooled = [moments(found, (2, 3), correction=1) for found in maps]
        return torch.cat([edges, *(part for mean, var in pooled for part in (mean, var.sqrt()))], dim=1)

    @staticmethod
    def standardised(found: Tensor) -> Tensor:
        """Give both parts of a collection's shapes (n, 128 + d) one say: each centred and of length 1."""
        edges, net = found.tensor_split((CELLS * CELLS * DIRECTIONS,), dim=1)
        net = (net - net.mean(0)) / (net.std(0) + 1e-6)
        return torch.cat([unit(edges - edges.mean(0)), unit(net)], dim=1)


def has_colours(colours: Tensor) -> bool:
    """Tell whether a collection's colours (n, 48) differ at all; those of grey images do not."""
    return bool(colours.var(0).sum() > TINT)


def nearest_agree(vectors: Tensor, labels: Tensor) -> Tensor:
    """Tell of each image whether the nearest other one has its label.

    Args:
        vectors: (n, d) floats, centred here.
        labels: (n,) int64.

    Returns:
        (n,) bool.
    """
    x = vectors - vectors.mean(0)
    return labels[top_k(x, x, 1, exclude_self=True)[1][:, 0]] == labels


def neighbours_shared(colours: Tensor, shapes: Tensor) -> float:
    """Tell how often images near in colour are near in shape too, as a multiple of chance.

    Args:
        colours, shapes: (n, d) floats of the same images, centred here.

    Returns:
        1 where the two have nothing to do with each other, and up to 1 / `NEAR`.
    """
    count = len(colours)
    k = max(2, round(NEAR * count))
    first, second = (top_k(x, x, k, exclude_self=True)[1] for x in (colours - colours.mean(0), shapes))
    marks = torch.zeros(count, count, dtype=torch.bool)
    shared = marks.scatter_(1, first, torch.ones_like(first, dtype=torch.bool)).gather(1, second)
    return float(shared.double().mean() * (count - 1) / k)


def _shares(bins: Tensor, weights: Tensor | None, count: int) -> Tensor:
    """Add up each row's bins and give the square roots of their shares, (n, count)."""
    found = torch.zeros(len(bins), count, device=bins.device)
    found.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float32) if weights is None else weights)
    return (found / found.sum(1, keepdim=True).clamp_min(1e-12)).sqrt()
