"""SimSiam: predict one view's projection from the other's, with only a stop-gradient against collapse.

Xinlei Chen and Kaiming He, "Exploring simple Siamese representation learning", CVPR 2021 (arXiv:2011.10566).

Choose it when you want the simplest method: no negatives, no EMA copy, half the memory of BYOL.

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
from typing import ClassVar

from torch import Tensor

from ..core.config import setting
from ..losses import unit
from ..losses.statistics import spread
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .recipes import MOCO_V2, recipes


@dataclass(frozen=True)
class Config:
    """SimSiam's own settings."""

    head: tuple[int, ...] = setting(
        (2048, 2048, 2048),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="SimSiam, section 3; two layers for CIFAR, appendix D",
    )
    predictor: int = setting(
        512,
        "width of the predictor's hidden layer, smaller than that of z",
        low=1,
        source="SimSiam, section 3",
    )


class SimSiam(Method):
    """SimSiam: f, a head g, a predictor h whose learning rate stays, and a stop-gradient."""

    any_side: ClassVar[bool] = True
    constant_lr: ClassVar[tuple[str, ...]] = ("h",)  # section 4.2: a rate that falls holds h back

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head and the predictor; see `Config`."""
        super().__init__(f, config)
        width = config.head[-1]
        self.g = mlp(f.dim, *config.head, last_gamma=False)  # neither gamma nor beta, as in the code
        self.h = mlp(width, config.predictor, width, last_norm=False)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into predictions p_i and p_j, and z_i and z_j to be predicted."""
        z_i, z_j = (self.g(self.f(view)) for view in batch.views)  # each view its own batch norm
        return self.h(z_i), self.h(z_j), z_i, z_j

    def loss(self, p_i: Tensor, p_j: Tensor, z_i: Tensor, z_j: Tensor) -> Loss:
        """Compare predictions with what they predict: equation 2, with the stop-gradients of equation 4."""
        return Loss({"cosine": D(p_i, z_j.detach()) / 2 + D(p_j, z_i.detach()) / 2}, {"z": z_i})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how widely z is spread, as figure 2 does; near 0 is collapse."""
        return {"spread": spread(watched["z"])}


# Section 3 for ImageNet. Appendix D for CIFAR: the optimizer and the rate of the recipes themselves.
SimSiam.recipes = recipes(
    cpu={"head": (512, 512), "predictor": 128},
    cifar={"head": (2048, 2048)},
    imagenet={**MOCO_V2, "lr": 0.05},
)


def D(p: Tensor, z: Tensor) -> Tensor:
    """Equation 1: the negative cosine, the mean over the rows."""
    return -(unit(p) * unit(z)).sum(1).mean()
