"""Jigsaw: cut each image into tiles, shuffle them, and predict in which order they are.

Mehdi Noroozi and Paolo Favaro, "Unsupervised learning of visual representations by solving jigsaw puzzles",
ECCV 2016 (arXiv:1603.09246).

Choose it when images show objects whose parts have places, like faces, animals and products, and you want a
classic method to compare with.

Shapes: N images, one view; of each, T tiles from a grid, each at a random place of its cell, with one mean and
deviation; K orders that differ in as many places as possible; for each image an order y (N,), drawn at random;
logits (N, K) from the encoder f and a layer g for each tile, and a linear layer on all T of them, in that order.

The cross-entropy, as plain loops:

    def loss(logits, y):
        total = 0.0
        for row, order in zip(logits, y):
            total += -log(exp(row[order]) / sum(exp(x) for x in row))
        return total / len(y)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..images.view_settings import Views
from ..models import Encoder, mlp
from .base import Batch, Expects, Loss, Method
from .recipes import TILES, recipes
from .tiles import permutations, tiles


@dataclass(frozen=True)
class Config:
    """Jigsaw's own settings."""

    grid: int = setting(
        2,
        "tiles in a row and in a column",
        low=2,
        high=3,
        source="Jigsaw, section 4.2: 3; 2 for small images",
    )
    gap: float = setting(
        0.25,
        "share of a cell's side that its tile leaves out",
        low=0.0,
        high=0.9,
        source="Jigsaw, section 4.2: tiles of 64 px in cells of 85",
    )
    permutations: int = setting(
        100,
        "number of orders to tell apart; a grid of 2 has 24",
        low=2,
        high=40_000,
        source="Jigsaw, table 4; VISSL",
    )
    head: tuple[int, ...] = setting((1000,), "widths of the layers for each tile", low=1, source="VISSL")


class Jigsaw(Method):
    """Jigsaw: f and g on each tile, a linear layer on all, and cross-entropy over orders."""

    modality: ClassVar[str | None] = "images"
    orders: Tensor

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the layers, and choose the orders; see `Config`."""
        super().__init__(f, config)
        orders = permutations(config.grid**2, config.permutations)
        self.register_buffer("orders", torch.from_numpy(orders), persistent=False)
        self.g = nn.Sequential(mlp(f.dim, *config.head), nn.ReLU())
        self.order = nn.Linear(config.grid**2 * config.head[-1], len(orders))

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the orders told on held-out images."""
        return Expects(
            task="order_accuracy",
            chance=1 / min(config.permutations, math.factorial(config.grid**2)),
            at_chance="raise --lr, lower --permutations or --gap, and train longer",
            solved="if lines continue from tile to tile, raise --gap; if colours give the order away, raise "
            "--grayscale",
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Shuffle the tiles of every image, and ask in which order they are."""
        (x,) = batch.views
        u = rng.uniform(rng.fold(batch.key, "order"), batch.rows, 1)[:, 0]
        y = torch.from_numpy((u * len(self.orders)).astype(np.int64)).to(x.device)
        cut = tiles(batch, x, self.config.grid, self.config.gap)  # (N, T, 3, tile, tile)
        shuffled = cut.take_along_dim(self.orders[y][:, :, None, None, None], 1)
        h = self.g(self.f(shuffled.flatten(0, 1))).unflatten(0, shuffled.shape[:2])  # (N, T, width)
        return self.order(h.flatten(1)), y

    def loss(self, logits: Tensor, y: Tensor) -> Loss:
        """Compare what is said of each order with what it is."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return Loss({"cross_entropy": F.cross_entropy(logits, y)}, {"right": logits.argmax(1) == y})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the orders was told rightly."""
        return {"order_accuracy": collectives.total(watched["right"].float().mean()) / distributed.world()}


Jigsaw.recipes = recipes(
    cpu=TILES,
    cifar={**TILES, "batch_size": 256},
    imagenet={
        **TILES,
        "grid": 3,
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
        "warmup": 0.0,
    },
    vit={**TILES, "grid": 3},
)
