"""PIRL: bring an image and its shuffled tiles to the same row of a memory bank.

Ishan Misra and Laurens van der Maaten, "Self-supervised learning of pretext-invariant representations", CVPR 2020
(arXiv:1912.01991).

Choose it when NPID suits your images, and features should depend less on where things are: tiles in any order
belong to the same row.

Shapes: N images, two views; rows (N,), which images they are; v (N, P) from the first view, the encoder f and a
linear layer g; t (N, P) from the tiles of the second, in any order, through f, a linear layer for each tile, and
one on all; both of length 1; bank (M, P) and drawn (N, K) as in NPID.

Equation 5, as plain loops, each of its terms in one of NPID's two forms:

    def loss(v, t, rows, drawn, bank, tau, z, lambda_):
        total = 0.0
        for weight, feature in ((1 - lambda_, v), (lambda_, t)):
            for i in range(len(feature)):
                own = exp(dot(bank[rows[i]], feature[i]) / tau)
                if len(drawn[i]) == 0:
                    total += -weight * log(own / sum(exp(dot(m, feature[i]) / tau) for m in bank))
                    continue
                noise = len(drawn[i]) / len(bank)
                total += -weight * log(own / z / (own / z + noise))
                for j in drawn[i]:
                    total += -weight * log(noise / (exp(dot(bank[j], feature[i]) / tau) / z + noise))
        return total / len(v)

(After each step the row of an image moves towards v, which its tiles do not change. The authors change the colours of each
tile by itself; here those of the view that all tiles are cut from.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core import rng
from ..core.config import setting
from ..images.view_settings import Views
from ..losses import unit
from ..models import Encoder
from .base import Batch, Loss
from .npid import NPID, compare, drawn
from .recipes import recipes
from .tiles import tiles


@dataclass(frozen=True)
class Config:
    """PIRL's own settings."""

    temperature: float = setting(
        0.1,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="NPID's code for CIFAR; PIRL, section 3.3: 0.07 for ImageNet",
    )
    width: int = setting(128, "width of v and of the bank's rows", low=1, source="PIRL, section 3.3")
    bank_negatives: int = setting(
        0,
        "number of images, drawn at random, that each is compared with (NCE); 0: all, exactly",
        low=0,
        source="NPID's code for CIFAR; PIRL, section 3.3: 32000 for ImageNet",
    )
    bank_momentum: float = setting(
        0.5, "momentum of the bank's rows", low=0.0, high=1.0, source="PIRL, section 3.3"
    )
    lambda_: float = setting(
        0.5,
        "weight of the tiles; the image has 1 minus that",
        low=0.0,
        high=1.0,
        source="PIRL, section 3.3",
    )
    grid: int = setting(
        2, "tiles in a row and in a column", low=2, high=3, source="PIRL, section 3.3: 3; 2 for small images"
    )
    gap: float = setting(
        0.25,
        "share of a cell's side that its tile leaves out",
        low=0.0,
        high=0.9,
        source="Jigsaw, section 4.2: tiles of 64 px in cells of 85",
    )


class PIRL(NPID):
    """PIRL: f, a linear layer g, layers for tiles, and a memory bank."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config(), images: int = 1) -> None:
        """Add the layers and the bank; see `Config` and `NPID`."""
        super().__init__(f, config, images)  # type: ignore[arg-type]  # it has what NPID's has
        count = config.grid**2
        self.tile = nn.Linear(f.dim, config.width)
        self.together = nn.Linear(count * config.width, config.width)

    def views(self, views: Views) -> tuple[Views, ...]:
        """The image's view as set, and for the tiles a larger part of the image."""
        return (views, replace(views, crop_min=max(0.6, views.crop_min), crop_max=max(0.6, views.crop_max)))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the first view into v, and the second's tiles, in an order drawn at random, into t."""
        x, whole = batch.views
        v = unit(self.g(self.f(x)))
        cut = tiles(batch, whole, self.config.grid, self.config.gap)  # (N, T, 3, tile, tile)
        u = rng.uniform(rng.fold(batch.key, "order"), batch.rows, cut.shape[1])
        order = torch.from_numpy(u).argsort(1).to(x.device)
        shuffled = cut.take_along_dim(order[:, :, None, None, None], 1)
        h = self.tile(self.f(shuffled.flatten(0, 1))).unflatten(0, cut.shape[:2])  # (N, T, P)
        t = unit(self.together(h.flatten(1)))
        negatives = drawn(batch, self.config.bank_negatives, len(self.memory.rows))
        return v, t, batch.rows.to(v.device), negatives.to(v.device)

    def loss(self, v: Tensor, t: Tensor, rows: Tensor, drawn: Tensor) -> Loss:  # type: ignore[override]
        """Compare both with the bank: equation 5."""
        image, seen = compare(v, rows, drawn, self)
        tiles, _ = compare(t, rows, drawn, self)
        terms = {"image": (1 - self.config.lambda_) * image, "tiles": self.config.lambda_ * tiles}
        return Loss(terms, {"v": v, "rows": rows, **seen})


_LARGE = {"temperature": 0.07, "bank_negatives": 32000, "grid": 3}
PIRL.recipes = recipes(
    cpu={"crop_min": 0.2, "colour": "change"},
    cifar={"batch_size": 128, "lr": 0.03, "lr_scaling": "fixed"},
    imagenet={
        **_LARGE,
        "optimizer": "sgd",
        "lr": 0.03,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
        "warmup": 0.0,
    },
    vit=_LARGE,
)
