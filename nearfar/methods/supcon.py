"""SupCon: pull all views of all images of one label together, push the other labels' away.

Prannay Khosla, Piotr Teterwak, Chen Wang, Aaron Sarna, Yonglong Tian, Phillip Isola, Aaron Maschinot,
Ce Liu and Dilip Krishnan, "Supervised contrastive learning", NeurIPS 2020 (arXiv:2004.11362).

Choose it when every image has a label and the features are used for more than classifying by these
labels.

Shapes: N images of V views each, mostly two; a z (N, P) for each view from the encoder f and the head g, of
length 1; labels (N,).

Equation 2, the form L_out, as plain loops over the views' z:

    def loss(z, labels, tau):
        z, labels = [row for view in z for row in view], len(z) * [*labels]
        total, anchors = 0.0, 0
        for i in range(len(z)):
            others = sum(exp(dot(z[i], z[k]) / tau) for k in range(len(z)) if k != i)
            P = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
            if P:
                total += sum(-log(exp(dot(z[i], z[p]) / tau) / others) for p in P) / len(P)
                anchors += 1
        return total / anchors
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..data.sampler import ClassBalanced, Sampler, Shuffled
from ..losses import supcon, unit
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """SupCon's own settings."""

    temperature: float = setting(
        0.1,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="the authors' code",
    )
    per_class: int = setting(
        0,
        "minimum number of images of each label in a batch; 0: mixed batches",
        low=0,
        source="Hermans et al. 2017, section 2",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="SupCon's code: two layers without batch norm, the first as wide as the features",
    )


class SupCon(Method):
    """SupCon: f, a head g, and the supervised contrastive loss."""

    any_side: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    @classmethod
    def sampler(cls, config: Config) -> Sampler:
        """Take several images of each label, where that is asked for."""
        return ClassBalanced(config.per_class) if config.per_class else Shuffled()

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`."""
        super().__init__(f, config)
        self.g = mlp(f.dim, *config.head, norm=False, last_norm=False)
        self.tau = config.temperature

    def embed(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """Turn the views into a z each, and add the labels."""
        assert batch.labels is not None
        h = self.f(torch.cat(batch.views))  # (VN, D): all views see one batch norm
        return unit(self.g(h)).chunk(len(batch.views)), batch.labels  # (N, P) each; (N,)

    def loss(self, z: Sequence[Tensor], labels: Tensor) -> Loss:
        """Compare all views: equation 2."""
        return Loss({"supcon": supcon(torch.cat(list(z)), labels.repeat(len(z)), self.tau)})


# The authors' code for CIFAR: rate 0.5 for a loss that it multiplies by 0.1 / 0.07, which equation 2 is not.
SupCon.recipes = recipes(
    cpu={"head": (256, 128)},
    cifar={"batch_size": 1024, "lr": 0.714, "lr_scaling": "fixed", "weight_decay": 1e-4, "grayscale": 0.2},
    cifar_warmup_epochs=10,
    imagenet={"head": (2048, 128)},
)
