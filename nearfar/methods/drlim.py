"""DrLIM: pull similar pairs together, and push others apart until they are a margin away.

Raia Hadsell, Sumit Chopra and Yann LeCun, "Dimensionality reduction by learning an invariant mapping", CVPR
2006 (not on arXiv; the network with two arms and this loss: Chopra, Hadsell and LeCun, "Learning a
similarity metric discriminatively", CVPR 2005).

Choose it when a fixed distance is to decide whether two images are of a kind: pairs beyond the margin are
left in peace.

Shapes: N images of V views each, mostly two; a z (N, P) for each view from the encoder f and the head g, of
length 1; labels (N,), the images' own, or their numbers where only views of one image are similar.

Equation 4, as plain loops, with a mean over each kind of pair:

    def loss(z_1, z_2, labels, margin):
        z, labels = [*z_1, *z_2], [*labels, *labels]
        similar, dissimilar = [], []
        for i in range(len(z)):
            for k in range(i):
                D = sqrt(dot(z[i] - z[k], z[i] - z[k]))
                if labels[i] == labels[k]:
                    similar.append(D**2 / 2)
                else:
                    dissimilar.append(max(0.0, margin - D) ** 2 / 2)
        return sum(similar) / len(similar) + sum(dissimilar) / len(dissimilar)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..losses import contrastive_accuracy, drlim, unit
from ..models import Encoder, mlp
from .base import Batch, Method, Terms


@dataclass(frozen=True)
class Config:
    """DrLIM's own settings."""

    margin: float = setting(
        1.0,
        "distance beyond which other images do not repel, 2 at most",
        low=0.0,
        high=2.0,
        source="Hadsell et al. 2006, section 2.1: above 0; rows of length 1 at right angles are 1.41 apart",
    )
    pairs: str = setting(
        "views",
        "what is similar: the views of an image, or all images of a label",
        choices=("views", "labels"),
        source="Hadsell et al. 2006, section 3: known distortions, or labels",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers, the last being z's",
        low=1,
        source="SimCLR, section 4.2",
    )


class DrLIM(Method):
    """DrLIM: f, a head g, and the contrastive loss of all pairs of the batch."""

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
        """Turn the views into a z each, and add what is similar."""
        z = unit(self.g(self.f(torch.cat(batch.views)))).chunk(len(batch.views))  # (N, P) each
        kind = batch.labels if self.config.pairs == "labels" else batch.rows
        assert kind is not None
        return (*z, kind.to(z[0].device))  # (N,)

    def loss(self, *z: Tensor) -> Terms:
        """Compare all pairs of views: equation 4."""
        *each, kind = z
        self.last = each[0].detach(), each[1].detach()
        similar, dissimilar = drlim(torch.cat(each), kind.repeat(len(each)), self.config.margin)
        return {"similar": similar, "dissimilar": dissimilar}

    def metrics(self) -> dict[str, Tensor]:
        """Tell how often a view's partner was the nearest of all, where partners are what is similar."""
        return (
            {"contrastive_accuracy": contrastive_accuracy(*self.last)} if self.config.pairs == "views" else {}
        )
