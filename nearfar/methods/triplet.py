"""Triplet: make an image nearer to one of its class than to one of another class, by a margin.

Florian Schroff, Dmitry Kalenichenko and James Philbin, "FaceNet: a unified embedding for face recognition
and clustering", CVPR 2015 (arXiv:1503.03832); batch mining after Alexander Hermans, Lucas
Beyer and Bastian Leibe, "In defense of the triplet loss for person re-identification", 2017
(arXiv:1703.07737).

Choose it when you use distances directly, for example to decide whether two photos show the same object, and
each label has a few images (`--pairs labels`).

Shapes: N images of V views each, mostly two; a z (N, P) for each view from the encoder f and the head g, of
length 1; labels (N,), the images' own, or their row numbers where only views of one image are a pair.

Equations 1 to 4, as plain loops over the views' z, with semi-hard mining:

    def loss(z, labels, margin):
        z, labels = [row for view in z for row in view], len(z) * [*labels]
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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.config import setting
from ..losses import triplet
from ..models import Encoder
from .base import Loss
from .pairs import Pairs
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """The triplet loss's own settings."""

    margin: float = setting(
        0.2,
        "by how much images of other classes must be farther: in squared distance (at most 4), or in distance "
        "with --mining hard or all",
        low=0.0,
        high=4.0,
        source="FaceNet, section 3.1",
    )
    mining: str = setting(
        "semi-hard",
        "which triplets of a batch are used",
        choices=("semi-hard", "hard", "all"),
        source="FaceNet, section 3.3; Hermans et al. 2017, equations 5 and 6",
    )
    pairs: str = setting(
        "views",
        "which pairs are similar: the views of an image, or all images of a label",
        choices=("views", "labels"),
        source="FaceNet has labels; views as in SimCLR",
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
        source="SimCLR, section 4.2; FaceNet, section 5.3: output 128",
    )


class Triplet(Pairs):
    """Triplet: f, a head g, and the triplet loss over the batch."""

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
        """Compare all views: equations 1 to 4."""
        config = self.config
        found = triplet(torch.cat(list(z)), labels.repeat(len(z)), config.margin, config.mining)
        return Loss({"triplet": found}, self.watch(z))


Triplet.recipes = recipes(cpu={"head": (256, 128)})
