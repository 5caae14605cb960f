"""Barlow Twins: make each feature agree between two views, and be uncorrelated with every other feature.

Jure Zbontar, Li Jing, Ishan Misra, Yann LeCun and Stéphane Deny, "Barlow Twins: Self-supervised learning via
redundancy reduction", ICML 2021 (arXiv:2103.03230).

Choose it when you want neither negatives nor an EMA copy; it works with batches of 128 and more.

Shapes: N images, two views A and B; f(view) (N, D); z_a, z_b (N, P) from the head g; C (P, P) their
cross-correlation over the batch, over all processes.

Equations 1 and 2, as plain loops:

    def loss(z_a, z_b, lambda_, scale):
        total = 0.0
        for i in range(z_a.shape[1]):
            for j in range(z_b.shape[1]):
                a, b = z_a[:, i] - z_a[:, i].mean(), z_b[:, j] - z_b[:, j].mean()
                spread_a, spread_b = dot(a, a) / len(a) + 1e-5, dot(b, b) / len(b) + 1e-5
                c = dot(a, b) / len(a) / sqrt(spread_a * spread_b)
                total += (1 - c) ** 2 if i == j else lambda_ * c**2
        return scale * total

(The 1e-5 is the batch norm's of the authors' code; so a constant feature correlates with none.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core import collectives, distributed
from ..core.config import setting
from ..images.view_settings import Views
from ..losses.statistics import centred, products
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .byol import asymmetric
from .recipes import BYOL_COLOURS, recipes


@dataclass(frozen=True)
class Config:
    """Barlow Twins' own settings."""

    lambda_: float = setting(
        0.0051,
        "lambda, the weight of correlations between different features",
        low=0.0,
        source="Barlow Twins, section 2.2 and its code",
    )
    scale: float = setting(
        0.1,
        "factor of the whole loss, for optimizers that depend on its size",
        low=0.0,
        source="solo-learn for CIFAR; the authors' code has 0.024",
    )
    head: tuple[int, ...] = setting(
        (2048, 2048, 2048),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="solo-learn for CIFAR; Barlow Twins, section 2.2: 8192 thrice for ImageNet",
    )


class BarlowTwins(Method):
    """Barlow Twins: f, a head g, and a cross-correlation that should be the identity."""

    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`."""
        super().__init__(f, config)
        # Without a last bias, which the loss does not see.
        self.g = mlp(f.dim, *config.head, last_norm=False, last_bias=False)

    def views(self, views: Views) -> tuple[Views, ...]:
        """Blur and solarise the two views differently, as BYOL does, if the recipe blurs at all."""
        return asymmetric(views)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into z_a and z_b."""
        z_a, z_b = (self.g(self.f(view)) for view in batch.views)  # each view its own batch norm
        return z_a, z_b

    def loss(self, z_a: Tensor, z_b: Tensor) -> Loss:
        """Compare the cross-correlation with the identity: equation 1."""
        C = cross_correlation(z_a, z_b)  # (P, P)
        on = (1 - C.diagonal()).square().sum()
        off = C.square().sum() - C.diagonal().square().sum()
        scale = self.config.scale
        terms = {"on_diagonal": scale * on, "off_diagonal": scale * self.config.lambda_ * off}
        return Loss(terms, {"correlation": C.diagonal()})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how well a feature of one view agrees with itself in the other; 1 is best."""
        return {"agreement": watched["correlation"].mean()}


# Section 2.2 for ImageNet; solo-learn for CIFAR, whose LARS clips, which ours does not.
BarlowTwins.recipes = recipes(
    cpu={"head": (512, 512)},
    cifar={"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-4},
    cifar_warmup_epochs=10,
    imagenet={
        "lr": 0.2,
        "lr_scaling": "linear",
        "weight_decay": 1.5e-6,
        "scale": 0.024,
        "head": (8192, 8192, 8192),
        **BYOL_COLOURS,
    },
)


def cross_correlation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Equation 2: (P, P), feature i of view A with feature j of view B, over the rows of all processes."""
    n = len(z_a) * distributed.world()
    a, b = centred(z_a), centred(z_b)
    spread_a, spread_b = (collectives.total(x.square().sum(0)) / n + 1e-5 for x in (a, b))
    return products(a * spread_a.rsqrt(), b * spread_b.rsqrt()) / n
