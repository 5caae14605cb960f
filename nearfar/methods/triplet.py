"""Triplet: an image is to be nearer to one of its kind than to one of another kind, by a margin.

Florian Schroff, Dmitry Kalenichenko and James Philbin, "FaceNet: a unified embedding for face recognition
and clustering", CVPR 2015 (arXiv:1503.03832); the mining of whole batches after Alexander Hermans, Lucas
Beyer and Bastian Leibe, "In defense of the triplet loss for person re-identification", 2017
(arXiv:1703.07737).

Choose it when distances themselves are the use, as for telling whether two photos show the same thing, and
labels name a few images each (`--pairs labels`).

Shapes: N images of V views each, mostly two; a z (N, P) for each view from the encoder f and the head g, of
length 1; labels (N,), the images' own, or their numbers where only views of one image are of a kind.

Equations 1 to 4, as plain loops, with semi-hard mining:

    def loss(z_1, z_2, labels, margin):
        z, labels = [*z_1, *z_2], [*labels, *labels]
        def far(a, b):
            return dot(z[a] - z[b], z[a] - z[b])
        total, pairs = 0.0, 0
        for a in range(len(z)):
            for p in range(len(z)):
                N = [n for n in range(len(z)) if labels[n] != labels[a]]
                if p != a and labels[p] == labels[a] and N:
                    farther = [far(a, n) for n in N if far(a, n) > far(a, p)]
                    near = min(farther) if farther else max(far(a, n) for n in N)
                    total += max(0.0, far(a, p) - near + margin)
                    pairs += 1
        return total / pairs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..losses import contrastive_accuracy, triplet, unit
from ..models import Encoder, mlp
from .base import Batch, Method, Terms


@dataclass(frozen=True)
class Config:
    """The triplet loss's own settings."""

    margin: float = setting(
        0.2,
        "by how much another kind must be farther, in squared distance, which is 4 at most",
        low=0.0,
        high=4.0,
        source="FaceNet, section 3.1",
    )
    mining: str = setting(
        "semi-hard",
        "which triplets of a batch count",
        choices=("semi-hard", "hard", "all"),
        source="FaceNet, section 3.2; Hermans et al. 2017, equations 5 and 7",
    )
    pairs: str = setting(
        "views",
        "what is of a kind: the views of an image, or all images of a label",
        choices=("views", "labels"),
        source="FaceNet has labels; views as in SimCLR",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers, the last being z's",
        low=1,
        source="SimCLR, section 4.2; FaceNet, section 5.3: output 128",
    )


class Triplet(Method):
    """Triplet: f, a head g, and the triplet loss over the batch."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cpu": {"head": (256, 128)}}

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`."""
        super().__init__(f, config)
        self.g = mlp(f.dim, *config.head)
        self.last: tuple[Tensor, ...] = ()

    @classmethod
    def requires(cls, config: Any) -> frozenset[str]:
        """Ask for labels where they make the pairs."""
        return frozenset({"labels"} if config.pairs == "labels" else ())

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the views into a z each, and add what is of a kind."""
        z = unit(self.g(self.f(torch.cat(batch.views)))).chunk(len(batch.views))  # (N, P) each
        kind = batch.labels if self.config.pairs == "labels" else batch.rows
        assert kind is not None
        return (*z, kind.to(z[0].device))  # (N,)

    def loss(self, *z: Tensor) -> Terms:
        """Compare all views: equations 1 to 4."""
        *each, kind = z
        self.last = each[0].detach(), each[1].detach()
        kinds = kind.repeat(len(each))
        return {"triplet": triplet(torch.cat(each), kinds, self.config.margin, self.config.mining)}

    def metrics(self) -> dict[str, Tensor]:
        """Tell how often a view's partner was the nearest of all, where partners are what is of a kind."""
        return (
            {"contrastive_accuracy": contrastive_accuracy(*self.last)} if self.config.pairs == "views" else {}
        )
