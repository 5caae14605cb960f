"""COLA: tell which part of a sound belongs to the same clip as another part, by a learnt similarity.

Aaqib Saeed, David Grangier and Neil Zeghidour, "Contrastive learning of general-purpose audio representations",
ICASSP 2021 (arXiv:2010.10915).

Choose it when clips of sound are much longer than what tells them apart, as recordings of places or of music.

Of sound, a view is a part of a clip and nothing else changes, but for a little noise in the second; so what a whole
clip has in common is learnt, such as its place, its speaker or its instrument. Where parts of a clip are words of
their own, SimCLR's views keep more of them.

Shapes: N clips; h (2N, D) from the encoder f; a, b (N, P) from the head g; W (P, P) is learnt; q = a W.

Section 3.1, as plain loops over the N rows of q and b, without a temperature:

    def loss(q, b):
        total = 0.0
        for i in range(len(q)):
            all_of_them = sum(exp(dot(q[i], b[k])) for k in range(len(b)))
            total += -log(exp(dot(q[i], b[i])) / all_of_them)
        return total / len(q)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import collectives, distributed
from ..core.config import setting
from ..losses import key_accuracy
from ..models import Encoder
from ..sound.view_settings import SoundViews
from .base import Batch, Loss, Method
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """COLA's own settings."""

    projection: int = setting(512, "width of what parts are compared by", low=1, source="COLA, section 3.2")


class COLA(Method):
    """COLA: f, a head g of one layer with layer norm and tanh, and a bilinear similarity W."""

    keep: ClassVar[tuple[str, ...]] = ("g",)

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head and the similarity."""
        super().__init__(f, config)
        width = config.projection
        self.g = nn.Sequential(nn.Linear(f.dim, width), nn.LayerNorm(width), nn.Tanh())
        self.bilinear = nn.Linear(width, width, bias=False)

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take two parts of a clip of sound, the second with noise; of other kinds, two views alike."""
        if not isinstance(views, SoundViews):
            return (views, views)
        part = replace(views, stretch=1.0, shift=0.0, warp=0.0, tilt=0.0, masks=0.0, floor=0.0)
        return (part, replace(part, floor=views.floor))

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Turn the two parts into q and b."""
        a, b = self.g(self.f(torch.cat(batch.views))).chunk(2)  # (N, P) each
        return self.bilinear(a), b

    def loss(self, q: Tensor, b: Tensor) -> Loss:
        """Let each first part find its clip's second one: section 3.1."""
        wide = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            q, b = q.to(wide), b.to(wide)
            own = torch.arange(len(q), device=q.device) + distributed.rank() * len(q)
            cross_entropy = F.cross_entropy(collectives.products(q, b), own)
        return Loss({"cross_entropy": cross_entropy}, {"q": q, "b": b})

    def negatives(self, batch: int) -> int:
        """The second parts of all other clips."""
        return batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a part's partner was the nearest of all."""
        return {"contrastive_accuracy": key_accuracy(watched["q"], watched["b"])}


COLA.recipes = recipes(cpu={"projection": 128})
