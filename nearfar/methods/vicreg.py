"""VICReg: bring two views together, keep the variance of every feature, and decorrelate the features.

Adrien Bardes, Jean Ponce and Yann LeCun, "VICReg: Variance-invariance-covariance regularization for
self-supervised learning", ICLR 2022 (arXiv:2105.04906).

Choose it when you want no negatives, and three separate loss terms that show why the features do not collapse.

Shapes: N images, two views; f(view) (N, D); z_a, z_b (N, P) from the head g (the paper's expander), of any
length; their variances and covariances are taken over the batch, over all processes.

Equations 1 to 6, as plain loops:

    def loss(z_a, z_b, invariance, variance, covariance):
        n, d = z_a.shape

        def C(z, i, j):
            return dot(z[:, i] - z[:, i].mean(), z[:, j] - z[:, j].mean()) / (n - 1)

        def v(z):
            return sum(max(0.0, 1 - sqrt(C(z, j, j) + 0.0001)) for j in range(d)) / d

        def c(z):
            return sum(C(z, i, j) ** 2 for i in range(d) for j in range(d) if i != j) / d

        s = sum(dot(a - b, a - b) for a, b in zip(z_a, z_b)) / (n * d)
        return invariance * s + variance * (v(z_a) + v(z_b)) + covariance * (c(z_a) + c(z_b))

(s is the mean over the features too, as in the paper's algorithm 1, to which its weights belong; equation 5
has their sum. The authors' later code halves the variance term.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core import distributed
from ..core.config import setting
from ..images.view_settings import Views
from ..losses.statistics import centred, products
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .byol import asymmetric
from .recipes import BYOL_COLOURS, recipes


@dataclass(frozen=True)
class Config:
    """VICReg's own settings."""

    invariance: float = setting(
        25.0, "lambda, weight of the distance between views", low=0.0, source="VICReg, section 4.2"
    )
    variance: float = setting(25.0, "mu, weight of the variance term", low=0.0, source="VICReg, section 4.2")
    covariance: float = setting(
        1.0, "nu, weight of the covariance term", low=0.0, source="VICReg, section 4.2"
    )
    head: tuple[int, ...] = setting(
        (2048, 2048, 2048),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="solo-learn for CIFAR; VICReg, section 4.2: 8192 thrice for ImageNet",
    )


class VICReg(Method):
    """VICReg: f, a head g, and three terms, one for each of its letters."""

    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`."""
        super().__init__(f, config)
        # Without a last bias, which the loss does not see.
        self.g = mlp(f.dim, *config.head, last_norm=False, last_bias=False)

    def views(self, views: Views) -> tuple[Views, ...]:
        """Blur and solarise the two views differently, as the authors' code does, if the recipe blurs at all."""
        return asymmetric(views)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into z_a and z_b."""
        z_a, z_b = (self.g(self.f(view)) for view in batch.views)  # each view its own batch norm
        return z_a, z_b

    def loss(self, z_a: Tensor, z_b: Tensor) -> Loss:
        """Add up the three terms: equation 6."""
        a, b = centred(z_a), centred(z_b)
        C_a, C_b = covariance(a), covariance(b)
        s = (z_a.to(a.dtype) - z_b.to(b.dtype)).square().mean()
        terms = {
            "invariance": self.config.invariance * s,
            "variance": self.config.variance * (v(C_a) + v(C_b)),
            "covariance": self.config.covariance * (c(C_a) + c(C_b)),
        }
        return Loss(terms, {"variance": C_a.diagonal()})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how much a feature of z varies; 1 is aimed at, near 0 is collapse."""
        return {"deviation": watched["variance"].sqrt().mean()}


# Section 4.2 and appendix C.1 for ImageNet; solo-learn for CIFAR, whose LARS clips, which ours does not.
VICReg.recipes = recipes(
    cpu={"head": (512, 512)},
    cifar={"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-4, "solarize": 0.1},
    cifar_warmup_epochs=10,
    imagenet={
        "lr": 0.3,
        "lr_scaling": "linear",
        "weight_decay": 1e-6,
        "head": (8192, 8192, 8192),
        **BYOL_COLOURS,
    },
)


def covariance(z: Tensor) -> Tensor:
    """Equation 3: (P, P), of centred rows over all processes."""
    return products(z, z) / (len(z) * distributed.world() - 1)


def v(C: Tensor) -> Tensor:
    """Equations 1 and 2: by how much each feature's standard deviation is below 1."""
    return (1 - (C.diagonal() + 1e-4).sqrt()).relu().mean()


def c(C: Tensor) -> Tensor:
    """Equation 4: squares of the covariances of different features, added up for each, the mean over them."""
    return (C.square().sum() - C.diagonal().square().sum()) / len(C)
