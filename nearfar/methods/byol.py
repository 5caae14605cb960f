"""BYOL: predict, from one view, the projection of the other by an EMA copy of the network; no negatives.

Jean-Bastien Grill, Florian Strub, Florent Altché, Corentin Tallec, Pierre H. Richemond, Elena Buchatskaya,
Carl Doersch, Bernardo Avila Pires, Zhaohan Daniel Guo, Mohammad Gheshlaghi Azar, Bilal Piot, Koray
Kavukcuoglu, Rémi Munos and Michal Valko, "Bootstrap your own latent: A new approach to self-supervised
learning", NeurIPS 2020 (arXiv:2006.07733).

Choose it when batches are small, or when many images are nearly the same, such as frames of one film, and
should not be pushed apart: it has no negatives.

Shapes: N images, two views; f(view) (N, D); z (N, P) from the EMA copies of f and of the head g; q (N, P)
from the predictor q on top of g. No gradient reaches z.

Equation 2, both ways round, as plain loops over rows of any length:

    def loss(q_i, q_j, z_i, z_j):
        total = 0.0
        for n in range(len(q_i)):
            for q, z in ((q_i[n], z_j[n]), (q_j[n], z_i[n])):
                total += 2 - 2 * dot(q, z) / sqrt(dot(q, q) * dot(z, z))
        return total / len(q_i)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..images.view_settings import Views
from ..losses import unit
from ..losses.statistics import spread
from ..models import Encoder, mlp
from ..models.ema import cosine_momentum, ema_copy, ema_update
from .base import Batch, Loss, Method
from .recipes import BYOL_COLOURS, recipes


@dataclass(frozen=True)
class Config:
    """BYOL's own settings."""

    ema: float = setting(
        0.99,
        "momentum of the EMA copy at the start; it rises to 1",
        low=0.0,
        high=1.0,
        source="BYOL, section 3.2: 0.996 over 1,000 epochs; its code: 0.99 over 100 or 300",
    )
    head: tuple[int, ...] = setting(
        (4096, 256),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="BYOL, section 3.2",
    )
    predictor: int = setting(4096, "width of the predictor's hidden layer", low=1, source="BYOL, section 3.2")


class BYOL(Method):
    """BYOL: f, g and a predictor q, and EMA copies of f and g to predict."""

    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head, the predictor and the EMA copies; see `Config`."""
        super().__init__(f, config)
        width = config.head[-1]
        # Neither of the last layers has a bias, as in the authors' code.
        self.g = mlp(f.dim, *config.head, last_norm=False, last_bias=False)
        self.q = mlp(width, config.predictor, width, last_norm=False, last_bias=False)
        self.slow_f, self.slow_g = ema_copy(f), ema_copy(self.g)

    def views(self, views: Views) -> tuple[Views, ...]:
        """Blur and solarise the two views differently, if the recipe blurs at all."""
        return asymmetric(views)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into predictions q_i and q_j, and into z_i and z_j to be predicted."""
        q_i, q_j = (self.q(self.g(self.f(view))) for view in batch.views)  # each view its own batch norm
        with torch.no_grad():
            z_i, z_j = (self.slow_g(self.slow_f(view)) for view in batch.views)
        return q_i, q_j, z_i, z_j

    def loss(self, q_i: Tensor, q_j: Tensor, z_i: Tensor, z_j: Tensor) -> Loss:
        """Compare predictions with what they predict: equation 2, both ways round."""
        return Loss({"distance": distance(q_i, z_j) + distance(q_j, z_i)}, {"z": z_i})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Update the EMA copies."""
        ema = cosine_momentum(self.config.ema, progress)
        ema_update(self.slow_f, self.f, ema)
        ema_update(self.slow_g, self.g, ema)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how widely z is spread; near 0 is collapse."""
        return {"spread": spread(watched["z"])}


# BYOL's code, 100 epochs on ImageNet; solo-learn for CIFAR, whose LARS clips, which ours does not.
BYOL.recipes = recipes(
    cpu={"head": (1024, 128), "predictor": 512, "ema": 0.9},
    cifar={"optimizer": "lars", "lr": 1.0, "weight_decay": 1e-5, "saturation": 0.2},
    cifar_warmup_epochs=10,
    imagenet={"lr": 0.45, "lr_scaling": "linear", "weight_decay": 1e-6, **BYOL_COLOURS},
)


def distance(q: Tensor, z: Tensor) -> Tensor:
    """Equation 2: the mean squared distance between predictions and targets at length 1; none flows into z."""
    return 2 - 2 * (unit(q) * unit(z.detach())).sum(1).mean()


def asymmetric(views: Views) -> tuple[Views, ...]:
    """Table 6: the first view is blurred, the second solarised. Small images, which have no blur, stay as set."""
    if getattr(views, "blur", 0.0) == 0:  # another kind of data may know no blur
        return (views, views)
    return (replace(views, blur=1.0), replace(views, blur=0.1, solarize=0.2))
