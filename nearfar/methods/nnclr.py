"""NNCLR: pull a view to the nearest neighbour of its partner among earlier images.

Debidatta Dwibedi, Yusuf Aytar, Jonathan Tompson, Pierre Sermanet and Andrew Zisserman, "With a little help
from my friends: nearest-neighbor contrastive learning of visual representations", ICCV 2021
(arXiv:2104.14548).

Choose it when augmentations alone do not show which images belong together, as with images whose colours
must not change.

Shapes: N images; z_1, z_2 (N, P) from the encoder f and the head g, p_1, p_2 (N, P) from a predictor on
top; support (K, P), the queue of earlier z_1; all rows of length 1.

Equation 3 and algorithm 1, as plain loops:

    def loss(z_1, z_2, p_1, p_2, support, tau):
        total = 0.0
        for z, p in ((z_1, p_2), (z_2, p_1)):
            for i in range(len(z)):
                friend = max(support, key=lambda row: dot(row, z[i]))
                everyone = sum(exp(dot(friend, row) / tau) for row in p)
                total += -log(exp(dot(friend, p[i]) / tau) / everyone)
        return total / (2 * len(z_1))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..losses import contrastive_accuracy, info_nce, unit
from ..models import Encoder, mlp
from ..models.queue import Queue
from .base import Batch, Loss, Method
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """NNCLR's own settings."""

    temperature: float = setting(
        0.2,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="solo-learn's CIFAR-10 recipe; NNCLR, implementation details: 0.1 for ImageNet",
    )
    head: tuple[int, ...] = setting(
        (512, 512, 128),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="NNCLR, implementation details: three layers, 2048 2048 256",
    )
    predictor: int = setting(
        512, "width of the predictor's hidden layer", low=1, source="NNCLR, implementation details: 4096"
    )
    queue: int = setting(
        16384,
        "number of earlier images among which neighbours are searched",
        low=1,
        source="between solo-learn's 65536 for CIFAR-10 and what a CPU can search; NNCLR: more is better",
    )


class NNCLR(Method):
    """NNCLR: f, a head g, a predictor, a queue, and InfoNCE from neighbours."""

    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head, the predictor and the queue; see `Config`."""
        super().__init__(f, config)
        width = config.head[-1]
        self.g = mlp(f.dim, *config.head)
        self.predict = mlp(width, config.predictor, width, last_norm=False)
        self.queue = Queue(config.queue, width)
        self.tau = config.temperature

    @property
    def support(self) -> Tensor:
        """The support set, (K, P): the earlier rows that the queue holds."""
        return self.queue.rows

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into z, without a gradient, and p."""
        z = self.g(self.f(torch.cat(batch.views)))  # (2N, P): both views see one batch norm
        z_1, z_2 = unit(z.detach()).chunk(2)  # (N, P) each
        p_1, p_2 = unit(self.predict(z)).chunk(2)  # (N, P) each
        return z_1, z_2, p_1, p_2

    def loss(self, z_1: Tensor, z_2: Tensor, p_1: Tensor, p_2: Tensor) -> Loss:
        """Compare each view's neighbour with the other's predictions: equation 3, both ways."""
        friend_1, friend_2 = self.queue.nearest(z_1), self.queue.nearest(z_2)
        both = info_nce(friend_1, p_2, None, self.tau) + info_nce(friend_2, p_1, None, self.tau)
        return Loss({"info_nce": both / 2}, {"z_1": z_1, "z_2": z_2})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Let the first views take the places of the oldest."""
        self.queue.push(watched["z_1"])

    def negatives(self, batch: int) -> int:
        """The other images, once each."""
        return batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a view's partner was the nearest of all."""
        return {"contrastive_accuracy": contrastive_accuracy(watched["z_1"], watched["z_2"])}


NNCLR.recipes = recipes(
    cpu={"temperature": 0.1, "head": (256, 256, 128), "predictor": 256, "queue": 4096},
    cifar={
        "head": (2048, 2048, 256),
        "predictor": 4096,
        "queue": 65536,
        "optimizer": "lars",
        "lr": 0.4,
        "weight_decay": 1e-5,
    },
    cifar_warmup_epochs=10,
    imagenet={
        "temperature": 0.1,
        "head": (2048, 2048, 256),
        "predictor": 4096,
        "queue": 98304,
        "lr": 0.3,
        "lr_scaling": "linear",
    },
)
