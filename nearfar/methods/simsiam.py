"""SimSiam: predict one view's projection from the other's, with nothing but a stop-gradient against collapse.

Xinlei Chen and Kaiming He, "Exploring simple Siamese representation learning", CVPR 2021 (arXiv:2011.10566).

Choose it when you want the simplest of all: no negatives, no slow copy, half the memory of BYOL.

Shapes: N images, two views; f(view) (N, D); z (N, P) from the head g; p (N, P) from the predictor h on top.
No gradient flows into z where it is predicted.

Equations 1 and 2, as plain loops over rows of any length:

    def loss(p_i, p_j, z_i, z_j):
        total = 0.0
        for n in range(len(p_i)):
            for p, z in ((p_i[n], z_j[n]), (p_j[n], z_i[n])):
                total += -0.5 * dot(p, z) / sqrt(dot(p, p) * dot(z, z))
        return total / len(p_i)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..losses import unit
from ..losses.statistics import spread
from ..models import Encoder, mlp
from .base import Batch, Method, Terms


@dataclass(frozen=True)
class Config:
    """SimSiam's own settings."""

    head: tuple[int, ...] = setting(
        (2048, 2048, 2048),
        "widths of the head's layers, the last being z's",
        low=1,
        source="SimSiam, section 3; two layers for CIFAR, appendix D",
    )
    predictor: int = setting(
        512, "width of the predictor's hidden layer, narrower than z", low=1, source="SimSiam, section 3"
    )


class SimSiam(Method):
    """SimSiam: f, a head g, a predictor h whose learning rate stays, and a stop-gradient."""

    constant_lr: ClassVar[tuple[str, ...]] = ("h",)  # section 4.2: a rate that falls holds h back

    # Section 3 for ImageNet. Appendix D for CIFAR: the optimizer and the rate of the recipes themselves.
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {"head": (512, 512), "predictor": 128},
        "cifar-short": {"head": (2048, 2048)},
        "cifar-long": {"head": (2048, 2048)},
        "imagenet": {
            "optimizer": "sgd",
            "lr": 0.05,
            "lr_scaling": "linear",
            "weight_decay": 1e-4,
            "warmup": 0.0,
            "crop_min": 0.2,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "hue": 0.1,
        },
    }

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head and the predictor; see `Config`."""
        super().__init__(f, config)
        width = config.head[-1]
        self.g = mlp(f.dim, *config.head)
        self.g[-1].weight.requires_grad_(False)  # z's batch norm has neither gamma nor beta, as in the code
        self.h = mlp(width, config.predictor, width, last_norm=False)
        self.last = torch.zeros(1, width)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into predictions p_i and p_j, and z_i and z_j to be predicted."""
        z_i, z_j = (self.g(self.f(view)) for view in batch.views)  # each view its own batch norm
        return self.h(z_i), self.h(z_j), z_i, z_j

    def loss(self, *z: Tensor) -> Terms:
        """Compare predictions with what they predict: equation 2, with the stop-gradients of equation 4."""
        p_i, p_j, z_i, z_j = z
        self.last = z_i.detach()
        return {"cosine": D(p_i, z_j.detach()) / 2 + D(p_j, z_i.detach()) / 2}

    def metrics(self) -> dict[str, Tensor]:
        """Tell how widely z is spread, as figure 2 does; near 0 is collapse."""
        return {"spread": spread(self.last)}


def D(p: Tensor, z: Tensor) -> Tensor:
    """Equation 1: the negative cosine, the mean over the rows."""
    return -(unit(p) * unit(z)).sum(1).mean()
