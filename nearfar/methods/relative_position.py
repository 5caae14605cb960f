"""Relative position: predict on which side of one tile of an image another tile lies.

Carl Doersch, Abhinav Gupta and Alexei A. Efros, "Unsupervised visual representation learning by context
prediction", ICCV 2015 (arXiv:1505.05192).

Choose it when you want the simplest method that learns where parts of objects are, as a classic to compare with.

Shapes: N images, one view; of each, the tiles of a grid, each at a random place of its cell, with one mean and
deviation; all M ordered pairs of neighbouring tiles, and for each the direction y (M,) from the first to the
second, one of 8; logits (N, M, 8) from the encoder f and a head g on both tiles of a pair.

The cross-entropy, as plain loops:

    def loss(logits, y):
        total = 0.0
        for image in logits:
            for pair, direction in zip(image, y):
                total += -log(exp(pair[direction]) / sum(exp(x) for x in pair))
        return total / (len(logits) * len(y))

(The paper draws one pair of each image; here each tile is encoded once, and all pairs are asked about.)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import collectives, distributed
from ..core.config import setting
from ..images.view_settings import Views
from ..models import Encoder, mlp
from .base import Batch, Expects, Loss, Method
from .recipes import TILES, recipes
from .tiles import tiles

DIRECTIONS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


@dataclass(frozen=True)
class Config:
    """Relative position's own settings."""

    grid: int = setting(
        2,
        "tiles in a row and in a column",
        low=2,
        high=3,
        source="context prediction, section 3: a tile and its 8 neighbours; 2 for small images",
    )
    gap: float = setting(
        0.25,
        "share of a cell's side that its tile leaves out",
        low=0.0,
        high=0.9,
        source="context prediction, section 3.1: about half a tile; Jigsaw: a quarter of a cell",
    )
    head: tuple[int, ...] = setting((512,), "widths of the hidden layers on a pair", low=1, source="ours")


class RelativePosition(Method):
    """Relative position: f on each tile, a head g on each pair, and cross-entropy over eight directions."""

    modality: ClassVar[str | None] = "images"
    first: Tensor
    second: Tensor
    y: Tensor

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head, and list the pairs; see `Config`."""
        super().__init__(f, config)
        for name, numbers in zip(
            ("first", "second", "y"), zip(*pairs(config.grid), strict=True), strict=True
        ):
            self.register_buffer(name, torch.tensor(numbers), persistent=False)
        self.g = mlp(2 * f.dim, *config.head, len(DIRECTIONS), last_norm=False)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the directions told on held-out images; the most frequent one is chance."""
        told = [direction for _, _, direction in pairs(config.grid)]
        return Expects(
            task="direction_accuracy",
            chance=max(map(told.count, told)) / len(told),
            at_chance="raise --lr, lower --gap, and train longer",
            solved="if lines continue from tile to tile, raise --gap; if colours give the place away, raise "
            "--grayscale",
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor]:
        """Encode all tiles, and ask of every pair on which side the second is."""
        (x,) = batch.views
        cut = tiles(batch, x, self.config.grid, self.config.gap)  # (N, T, 3, tile, tile)
        h = self.f(cut.flatten(0, 1)).unflatten(0, cut.shape[:2])  # (N, T, D)
        both = torch.cat([h[:, self.first], h[:, self.second]], 2)  # (N, M, 2 D)
        return (self.g(both.flatten(0, 1)).unflatten(0, both.shape[:2]),)

    def loss(self, logits: Tensor) -> Loss:
        """Compare what is said of each pair with what it is."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        y = self.y.expand(len(logits), -1)
        right = logits.argmax(2) == y
        return Loss({"cross_entropy": F.cross_entropy(logits.flatten(0, 1), y.flatten())}, {"right": right})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the directions was told rightly."""
        right = collectives.total(watched["right"].float().mean()) / distributed.world()
        return {"direction_accuracy": right}


RelativePosition.recipes = recipes(
    cpu=TILES,
    cifar={**TILES, "batch_size": 256},
    imagenet={
        **TILES,
        "grid": 3,
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
    },
    vit={**TILES, "grid": 3},
)


def pairs(grid: int) -> list[tuple[int, int, int]]:
    """List the ordered pairs of neighbouring tiles: the first, the second, and the direction between them."""
    places = list(itertools.product(range(grid), repeat=2))
    found = []
    for first, (row, column) in enumerate(places):
        for second, (other_row, other_column) in enumerate(places):
            step = (other_row - row, other_column - column)
            if step in DIRECTIONS:
                found.append((first, second, DIRECTIONS.index(step)))
    return found
