"""RotNet: rotate each image by 0, 90, 180 and 270 degrees, and predict the rotation.

Spyros Gidaris, Praveer Singh and Nikos Komodakis, "Unsupervised representation learning by predicting image
rotations", ICLR 2018 (arXiv:1803.07728).

Choose it when images have an upright orientation, like photos of people, streets and products, but unlike cells,
satellite images and textures. Its features show parts and their positions, not differences between images.

Shapes: N images, one view; of each all four rotations, by quarter turns r = 0 to 3; logits (N, 4, 4) from the
encoder f and a linear layer g: for each image and rotation, one number per possible rotation.

Equations 2 and 3, as plain loops:

    def loss(logits):
        total = 0.0
        for n in range(len(logits)):
            for r in range(4):
                total += -log(exp(logits[n][r][r]) / sum(exp(x) for x in logits[n][r]))
        return total / (4 * len(logits))

(Quarter turns move pixels without interpolation, so they leave no trace in the pixels.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed
from ..images.view_settings import Views
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .recipes import WEAK, recipes


@dataclass(frozen=True)
class Config:
    """RotNet's own settings: none; its recipes make the views weak."""


class RotNet(Method):
    """RotNet: f, a linear layer g, and cross-entropy over four turns."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the linear layer; see `Config`."""
        super().__init__(f, config)
        self.g = nn.Linear(f.dim, 4)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the turns told on held-out images, of which a quarter is chance."""
        return Expects(
            task="turn_accuracy",
            chance=0.25,
            at_chance="raise --lr and train longer, or choose --method simclr if the images have no upright",
            solved="if a border, a caption or a shadow gives the turn away, crop it off or choose --method simclr",
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor]:
        """Turn every image four ways and ask what turn each is."""
        (x,) = batch.views
        turned = torch.cat([torch.rot90(x, r, (2, 3)) for r in range(4)])  # (4N, ...): all see one batch norm
        return (self.g(self.f(turned)).unflatten(0, (4, -1)).transpose(0, 1),)  # (N, 4, 4)

    def loss(self, logits: Tensor) -> Loss:
        """Compare what is said of each turn with what it is: equations 2 and 3."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        turn = torch.arange(4, device=logits.device).expand(len(logits), 4)  # (N, 4)
        right = logits.argmax(2) == turn
        return Loss(
            {"cross_entropy": F.cross_entropy(logits.flatten(0, 1), turn.flatten())}, {"right": right}
        )

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the turns was told rightly; a quarter is chance."""
        return {"turn_accuracy": collectives.total(watched["right"].float().mean()) / distributed.world()}


# Crops as weak as the authors' for CIFAR, which shift its images by up to 4 of 32 px.
# The authors' code for CIFAR, 128 images and thus 512 turns a step; VISSL's ResNet-50 for ImageNet.
RotNet.recipes = recipes(
    cpu={**WEAK, "batch_size": 128},
    cifar={**WEAK, "batch_size": 128, "lr": 0.1, "lr_scaling": "fixed"},
    imagenet={
        **WEAK,
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
        "warmup": 0.0,
    },
    vit=WEAK,
)
