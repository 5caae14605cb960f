"""DrLIM: pull similar pairs together, and push other pairs apart up to a margin.

Raia Hadsell, Sumit Chopra and Yann LeCun, "Dimensionality reduction by learning an invariant mapping", CVPR
2006 (not on arXiv; the network with two arms and this loss: Chopra, Hadsell and LeCun, "Learning a
similarity metric discriminatively", CVPR 2005).

Choose it when a fixed distance decides whether two images belong together: pairs beyond the margin have no
loss.

Shapes: N images of V views each, mostly two; a z (N, P) for each view from the encoder f and the head g, of
length 1; labels (N,), the images' own, or their numbers where only views of one image are similar.

Equation 4, as plain loops over the views' z, with a mean over each kind of pair:

    def loss(z, labels, margin):
        z, labels = [row for view in z for row in view], len(z) * [*labels]
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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..losses import drlim
from ..models import Encoder
from .base import Loss
from .pairs import Pairs
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """DrLIM's own settings."""

    margin: float = setting(
        1.0,
        "distance beyond which other images have no loss (at most 2)",
        low=0.0,
        high=2.0,
        source="Hadsell et al. 2006, section 2.1: above 0; rows of length 1 at right angles are 1.41 apart",
    )
    pairs: str = setting(
        "views",
        "which pairs are similar: the views of an image, or all images of a label",
        choices=("views", "labels"),
        source="Hadsell et al. 2006, section 3: known distortions, or labels",
    )
    per_class: int = setting(
        0,
        "minimum number of images of each label in a batch, with --pairs labels; 0: mixed batches",
        low=0,
        source="Hermans et al. 2017, section 2",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="SimCLR, section 4.2",
    )


class DrLIM(Pairs):
    """DrLIM: f, a head g, and the contrastive loss of all pairs of the batch."""

    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`. `Pairs` has the half that turns views into z."""
        super().__init__(f, config)

    @classmethod
    def requires(cls, config: Config) -> frozenset[str]:
        """Ask for labels where they make the pairs."""
        cls.sampler(config)  # which may refuse, better now than once the images are read
        return frozenset({"labels"} if config.pairs == "labels" else ())

    def loss(self, z: Sequence[Tensor], labels: Tensor) -> Loss:
        """Compare all pairs of views: equation 4."""
        similar, dissimilar = drlim(torch.cat(list(z)), labels.repeat(len(z)), self.config.margin)
        return Loss({"similar": similar, "dissimilar": dissimilar}, self.watch(z))


DrLIM.recipes = recipes(cpu={"head": (256, 128)})
