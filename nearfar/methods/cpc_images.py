"""CPC for images: from the upper rows of an image's patches, predict features of those below, among others.

Olivier J. Hénaff, Aravind Srinivas, Jeffrey De Fauw, Ali Razavi, Carl Doersch, S. M. Ali Eslami and Aäron van den Oord,
"Data-efficient image recognition with contrastive predictive coding", ICML 2020 (arXiv:1905.09272).

Choose it when images are large and you want a method that compares parts of an image, as a classic to compare with. At 32
px an image has three rows of patches, which is little to predict from.

Shapes: N images, one view, cut into G x G patches that overlap by half, each encoded by f and a linear layer with layer
norm; z (N, R, C, P), G rows and columns of them; predicted (N, K, R, C, P), from convolutions that see row r and those
above, and a linear layer for each k: what is predicted for row r + 2 + k.

The InfoNCE loss, as plain loops:

    def loss(z, predicted):
        total, count, everything = 0.0, 0, [w for image in z for row in image for w in row]
        for i in range(len(z)):
            for k in range(len(predicted[i])):
                for r in range(len(z[i]) - 2 - k):
                    for c in range(len(z[i][r])):
                        p = predicted[i][k][r][c]
                        others = sum(exp(dot(p, w)) for w in everything)
                        total += -log(exp(dot(p, z[i][r + 2 + k][c])) / others)
                        count += 1
        return total / count

(The paper predicts in four directions, and changes the colours of each patch by chance; here down alone, and each patch is
brought to one mean and deviation, so that an image is not known by its brightness. A patch of the next row overlaps
with those seen and is left out. The encoder's own batch norms stay; a vision transformer has none.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed
from ..core.config import setting
from ..core.errors import NearfarError
from ..images.view_settings import Views
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .prediction import choices, tell
from .recipes import TILES, recipes
from .tiles import LEAST, standardised

FIRST = 2  # rows to the first that shares no pixel with the row that is predicted from


@dataclass(frozen=True)
class Config:
    """Settings of CPC for images."""

    grid: int = setting(
        3,
        "patches in a row; they overlap by half",
        low=3,
        source="van den Oord et al. 2018, section 3.2: 7 of 64 px",
    )
    rows_below: int = setting(
        1,
        "rows that are predicted, from the second below on",
        low=1,
        source="van den Oord et al. 2018, section 3.2: up to 5 rows",
    )
    width: int = setting(256, "width of z and of the convolutions", low=1, source="ours")
    context_depth: int = setting(3, "convolutions over the rows above", low=1, source="ours")


class RowsAbove(nn.Module):
    """Convolutions of which each place sees its own row and those above; a layer norm each, no batch norm."""

    def __init__(self, width: int, depth: int) -> None:
        """Build them with random weights.

        Args:
            width: numbers at each place.
            depth: convolutions.
        """
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Conv2d(width, width, (2, 3)) for _ in range(depth))

    def forward(self, z: Tensor) -> Tensor:
        """(n, rows, columns, width) -> the same shape."""
        for norm, layer in zip(self.norms, self.layers, strict=True):
            y = F.pad(norm(z).relu().permute(0, 3, 1, 2), (1, 1, 1, 0))  # a row above, none below
            z = z + layer(y).permute(0, 2, 3, 1)
        return z


class CPCImages(Method):
    """CPC for images: f on patches, a linear layer g, convolutions, and a linear layer for each row below."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the networks; see `Config`."""
        super().__init__(f, config)
        if config.grid < FIRST + config.rows_below:
            raise NearfarError(
                f"{config.grid} rows of patches are too few to predict {config.rows_below} from the second on; lower "
                "--rows-below, or raise --grid."
            )
        self.g = nn.Sequential(nn.Linear(f.dim, config.width), nn.LayerNorm(config.width))
        self.context = RowsAbove(config.width, config.context_depth)
        # Short at first, so that the many scores are near each other.
        layers = [nn.Linear(config.width, config.width, bias=False) for _ in range(config.rows_below)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=1 / config.width)
        self.below = nn.ModuleList(layers)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the patches told on held-out images; views need not be near each other."""
        return Expects(
            task="patch_accuracy", chance=None, at_chance="raise --lr, raise --crop-min, and train longer"
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cut each view into patches, encode them, and predict the rows below."""
        (x,) = batch.views
        grid = self.config.grid
        step = x.shape[3] // (grid + 1)
        if step < LEAST:
            raise NearfarError(
                f"{grid} patches in a row of {x.shape[3]} px are too small; lower --grid, or raise --image-size."
            )
        cut = x.unfold(2, 2 * step, step).unfold(3, 2 * step, step)[
            :, :, :grid, :grid
        ]  # (N, 3, G, G, side, side)
        patches = standardised(cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
        z = self.g(self.f(patches)).unflatten(0, (len(x), grid, grid))
        context = self.context(z)
        return z, torch.stack([layer(context) for layer in self.below], 1)

    def loss(self, z: Tensor, predicted: Tensor) -> Loss:
        """Tell each patch below from all others: the InfoNCE loss."""
        rows, columns, wanted = z.shape[1], z.shape[2], []
        for k in range(predicted.shape[1]):
            wanted += [(k, r, c) for r in range(rows - FIRST - k) for c in range(columns)]
        below, row, column = torch.tensor(wanted, device=z.device).unbind(1)
        at = (row + FIRST + below) * columns + column
        loss, right = tell(predicted[:, below, row, column], z.flatten(1, 2), at)
        return Loss({"info_nce": loss}, {"right": right, "compared": choices(z.flatten(1, 2))})

    def negatives(self, batch: int) -> int:
        """All other patches of all images."""
        return batch * self.config.grid**2 - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often the patch that is there was the best of all."""
        return {"patch_accuracy": collectives.total(watched["right"].float().mean()) / distributed.world()}


_LARGE = {**TILES, "grid": 7, "rows_below": 4, "optimizer": "adamw", "lr": 2e-4, "lr_scaling": "fixed"}
CPCImages.recipes = recipes(
    cpu={**TILES, "width": 128, "batch_size": 64},
    cifar={**TILES, "batch_size": 128},
    imagenet=_LARGE,
    vit={**_LARGE, "weight_decay": 1e-6},
)
