"""SimCLR: pull two views of an image together, push all other images away.

Ting Chen, Simon Kornblith, Mohammad Norouzi and Geoffrey Hinton, "A simple framework for contrastive
learning of visual representations", ICML 2020 (arXiv:2002.05709). With `--decoupled`: Chun-Hsiao Yeh,
Cheng-Yao Hong, Yen-Chi Hsu, Tyng-Luh Liu, Yubei Chen and Yann LeCun, "Decoupled contrastive learning", ECCV
2022 (arXiv:2110.06848), who also exclude k = j from the sum below.

Choose it when you want a well-known default: one temperature to set, and batches of 256 or more.

Shapes: N images, 2N views; h (2N, D) from the encoder f; z_i, z_j (N, P) from the head g, of length 1.

Equation 1, as plain loops over z, the 2N rows, where rows a and a + N are a pair:

    def loss(z_i, z_j, tau):
        z, total = [*z_i, *z_j], 0.0
        for i in range(len(z)):
            j = (i + len(z) // 2) % len(z)
            others = sum(exp(dot(z[i], z[k]) / tau) for k in range(len(z)) if k != i)
            total += -log(exp(dot(z[i], z[j]) / tau) / others)
        return total / len(z)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..losses import contrastive_accuracy, dcl, nt_xent, unit
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """SimCLR's own settings."""

    temperature: float = setting(
        0.2,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="SimCLR, table 5 and appendix B.9: 0.1 for ImageNet, 0.5 for long CIFAR training; 0.2 as MoCo v2",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="SimCLR, section 4.2: two layers, output 128; the first as wide as the features",
    )
    decoupled: bool = setting(
        False,
        "exclude the positive from the denominator, which helps small batches",
        source="Yeh et al. 2022",
    )


class SimCLR(Method):
    """SimCLR: f, a head g, and NT-Xent."""

    keep: ClassVar[tuple[str, ...]] = ("g",)

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`."""
        super().__init__(f, config)
        self.g = mlp(f.dim, *config.head)
        self.tau = config.temperature

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into z_i and z_j."""
        h = self.f(torch.cat(batch.views))  # (2N, D): both views see one batch norm
        z_i, z_j = unit(self.g(h)).chunk(2)  # (N, P) each
        return z_i, z_j

    def loss(self, z_i: Tensor, z_j: Tensor) -> Loss:
        """Compare all views: equation 1, or the decoupled one."""
        watched = {"z_i": z_i, "z_j": z_j}
        if self.config.decoupled:
            return Loss({"dcl": dcl(z_i, z_j, self.tau)}, watched)
        return Loss({"nt_xent": nt_xent(z_i, z_j, self.tau)}, watched)

    def negatives(self, batch: int) -> int:
        """All views but a view itself and its partner."""
        return 2 * batch - 2

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a view's partner was the nearest of all."""
        return {"contrastive_accuracy": contrastive_accuracy(watched["z_i"], watched["z_j"])}


SimCLR.recipes = recipes(
    cpu={"temperature": 0.1, "head": (256, 128)},
    cifar={"temperature": 0.5},
    imagenet={"temperature": 0.1, "head": (2048, 128)},
)
