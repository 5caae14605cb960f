"""MoCo v3: find each view's partner among the images of the batch, encoded by an EMA copy; no queue.

Xinlei Chen, Saining Xie and Kaiming He, "An empirical study of training self-supervised vision
transformers", ICCV 2021 (arXiv:2104.02057).

Choose it when the encoder is a vision transformer (recipe vit), whose patch projection is frozen here to keep
it stable, or when batches are large.

Shapes: N images; for each view queries q (N, P) from encoder, head and predictor, and keys k (N, P) from
the EMA copy of encoder and head; all rows of length 1.

Equation 1 and algorithm 1, as plain loops:

    def loss(q_1, q_2, k_1, k_2, tau):
        total = 0.0
        for q, k in ((q_1, k_2), (q_2, k_1)):
            for i in range(len(q)):
                everyone = sum(exp(dot(q[i], key) / tau) for key in k)
                total += -2 * tau * log(exp(dot(q[i], k[i]) / tau) / everyone) / len(q)
        return total
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.config import setting
from ..images.view_settings import Views
from ..losses import info_nce, key_accuracy, unit
from ..models import Encoder, mlp
from ..models.ema import cosine_momentum, ema_copy, ema_update
from .base import Batch, Loss, Method
from .byol import asymmetric
from .recipes import BYOL_COLOURS, recipes


@dataclass(frozen=True)
class Config:
    """MoCo v3's own settings."""

    temperature: float = setting(
        0.2,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="the authors' code: 0.2 for vision transformers, 1 for ResNet-50",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers; the last is the width of the keys",
        low=1,
        source="the authors' code: 4096 256 for ResNet-50, 4096 4096 256 for vision transformers",
    )
    predictor: int = setting(
        512, "width of the predictor's hidden layer", low=1, source="MoCo v3, section 5: 4096"
    )
    ema: float = setting(
        0.99,
        "momentum of the EMA copy at the start; it rises to 1",
        low=0.0,
        high=1.0,
        source="MoCo v3, section 6.2",
    )


class MoCoV3(Method):
    """MoCo v3: f, a head g and a predictor, the EMA copy f_k of f and g, and InfoNCE both ways."""

    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head, the predictor and the EMA copy; freeze a transformer's patch projection."""
        super().__init__(f, config)
        patches = patch_projection(f.net)
        if patches is not None:
            patches.requires_grad_(False)
            if f.untrained:
                fix_positions(f.net)
        # As in the authors' code, last norms have neither gamma nor beta, and last layers have no bias; a
        # transformer's predictor ends in a batch norm, and a ResNet's does not.
        self.g = mlp(f.dim, *config.head, last_gamma=False)
        width = config.head[-1]
        self.predict = mlp(
            width,
            config.predictor,
            width,
            last_norm=patches is not None,
            last_bias=False,
            last_gamma=False,
        )
        self.f_k = ema_copy(nn.Sequential(f, self.g))
        self.tau, self.ema = config.temperature, config.ema

    def views(self, views: Views) -> tuple[Views, ...]:
        """Blur and solarise the two views differently, as BYOL does, if the recipe blurs at all."""
        return asymmetric(views)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into queries and keys, each view with its own batch statistics."""
        q_1, q_2 = (unit(self.predict(self.g(self.f(x)))) for x in batch.views)  # (N, P) each
        with torch.no_grad():
            k_1, k_2 = (unit(self.f_k(x)) for x in batch.views)  # (N, P) each
        return q_1, q_2, k_1, k_2

    def loss(self, q_1: Tensor, q_2: Tensor, k_1: Tensor, k_2: Tensor) -> Loss:
        """Compare each view's queries with the other's keys: algorithm 1."""
        both = info_nce(q_1, k_2.detach(), None, self.tau) + info_nce(q_2, k_1.detach(), None, self.tau)
        return Loss({"info_nce": 2 * self.tau * both}, {"q": q_1, "k": k_2})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Update the EMA copy, with rising momentum."""
        ema_update(self.f_k, nn.Sequential(self.f, self.g), cosine_momentum(self.ema, progress))

    def negatives(self, batch: int) -> int:
        """The other images, once each."""
        return batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a query's own key was the nearest of all keys of the batch."""
        return {"contrastive_accuracy": key_accuracy(watched["q"], watched["k"])}


MoCoV3.recipes = recipes(
    cpu={"head": (256, 128), "predictor": 256},
    cifar={"head": (4096, 256), "predictor": 4096, "optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6},
    cifar_warmup_epochs=10,
    imagenet={
        "temperature": 1.0,
        "head": (4096, 256),
        "predictor": 4096,
        "lr": 0.6,
        "lr_scaling": "linear",
        "crop_min": 0.2,
        **BYOL_COLOURS,
    },
    vit={"temperature": 0.2, "head": (4096, 4096, 256), "predictor": 4096, **BYOL_COLOURS},
)


def fix_positions(net: nn.Module) -> None:
    """Give a vision transformer positions of sines and cosines, which are not trained.

    Args:
        net: a network of timm's or torchvision's; one without learnt positions stays as it is.

    Source:
        MoCo v3's code: half of the numbers for the row and half for the column, 0 for the class token.
    """
    known = dict(net.named_parameters())
    positions = known.get("pos_embed", known.get("encoder.pos_embedding"))
    if positions is None or positions.dim() != 3 or positions.shape[2] % 4:
        return
    count, width = positions.shape[1:]
    side = math.isqrt(count)
    if count - side * side > 2:  # more than a class token and one other stand before the patches
        return
    rate = 10000.0 ** -(torch.arange(width // 4) / (width // 4))
    row, column = (
        at.flatten()[:, None] * rate for at in torch.meshgrid(*2 * [torch.arange(side)], indexing="ij")
    )
    waves = torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=1)
    positions.requires_grad_(False)
    positions.zero_()
    positions[0, count - side * side :] = waves


def patch_projection(net: nn.Module) -> nn.Module | None:
    """Find the layer that turns patches into tokens, which a random matrix does well enough.

    Args:
        net: a network of timm's or torchvision's.

    Returns:
        The layer; None where images are not cut into patches.

    Source:
        MoCo v3, section 4.2: training it is what makes vision transformers unstable.
    """
    parts = dict(net.named_modules())
    return parts.get("patch_embed.proj", parts.get("conv_proj"))
