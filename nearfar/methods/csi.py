"""CSI: SimCLR in which an image turned by a quarter counts as another image, and its turn is told.

Jihoon Tack, Sangwoo Mo, Jongheon Jeong and Jinwoo Shin, "CSI: novelty detection via contrastive learning on
distributionally shifted instances", NeurIPS 2020 (arXiv:2007.08176).

Choose it when all images are normal and whole images that are unlike them are to be found: `nearfar anomalies
--method csi`. Images need an upright orientation.

Shapes: N images, two views, each turned by r = 0 to 3 quarters; z_i, z_j (N, 4, P) of length 1 from the encoder f and a
head g; logits (N, 8, 4) from f and a linear layer: for the four turns of the first view, and then of the second, one
number per possible turn.

NT-Xent over all turned views, and the cross-entropy of the turns, as plain loops over z, whose rows a and a + 4N are a pair:

    def loss(z_i, z_j, logits, tau, turn_weight):
        n, total, told = len(z_i), 0.0, 0.0
        z = [row for view in (z_i, z_j) for image in view for row in image]
        for i in range(len(z)):
            j = (i + 4 * n) % len(z)
            others = sum(exp(dot(z[i], z[k]) / tau) for k in range(len(z)) if k != i)
            total += -log(exp(dot(z[i], z[j]) / tau) / others)
        for image in logits:
            for at in range(8):
                told += -log(exp(image[at][at % 4]) / sum(exp(x) for x in image[at]))
        return total / len(z) + turn_weight * told / (8 * n)

(The authors turn an image before it is cropped and its colours are changed; here the view is turned. Their score of an
image counts the length of z too, and is the mean over ten crops; here neither.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed
from ..core.config import setting
from ..losses import contrastive_accuracy, nt_xent, unit
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .recipes import recipes


@dataclass(frozen=True)
class Config:
    """CSI's own settings."""

    temperature: float = setting(
        0.5,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="CSI's code",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="CSI's code: as wide as the features, then 128; there without batch norm, here with one",
    )
    turn_weight: float = setting(
        1.0, "weight of telling the turns", low=0.0, source="CSI's code: both terms alike"
    )


class CSI(Method):
    """CSI: f, a head g, and a linear layer that tells turns."""

    modality: ClassVar[str | None] = "images"
    keep: ClassVar[tuple[str, ...]] = ("g", "turn")

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head and the layer; see `Config`."""
        super().__init__(f, config)
        self.g = mlp(f.dim, *config.head)
        self.turn = nn.Linear(f.dim, 4)
        self.tau = config.temperature

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Turn each view four ways, and make its z and what is said of its turn."""
        turned = torch.cat([torch.rot90(x, r, (2, 3)) for x in batch.views for r in range(4)])
        h = self.f(turned)  # (8N, D): all see one batch norm
        z_i, z_j = (half.unflatten(0, (4, -1)).transpose(0, 1) for half in unit(self.g(h)).chunk(2))
        return z_i, z_j, self.turn(h).unflatten(0, (8, -1)).transpose(0, 1)

    def loss(self, z_i: Tensor, z_j: Tensor, logits: Tensor) -> Loss:
        """Compare all turned views, and tell their turns."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        turn = torch.arange(4, device=logits.device).repeat(len(logits), 2)  # (N, 8)
        z_i, z_j = z_i.flatten(0, 1), z_j.flatten(0, 1)
        terms = {
            "nt_xent": nt_xent(z_i, z_j, self.tau),
            "turn": self.config.turn_weight * F.cross_entropy(logits.flatten(0, 1), turn.flatten()),
        }
        return Loss(terms, {"z_i": z_i, "z_j": z_j, "right": logits.argmax(2) == turn})

    def negatives(self, batch: int) -> int:
        """All turned views but a view itself and its partner."""
        return 8 * batch - 2

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a view's partner was the nearest of all, and how many turns were told."""
        told = collectives.total(watched["right"].float().mean()) / distributed.world()
        return {
            "contrastive_accuracy": contrastive_accuracy(watched["z_i"], watched["z_j"]),
            "turn_accuracy": told,
        }


class TurnedVectors(nn.Module):
    """An image's z in each of four turns, not of length 1, and what is said for each turn that it was made with.

    `analysis.anomaly_detectors.detector` makes scores of these vectors by its method "csi".
    """

    def __init__(self, f: nn.Module, g: Mapping[str, Tensor], turn: Mapping[str, Tensor]) -> None:
        """Put together what a run has kept.

        Args:
            f: the encoder as it was trained.
            g, turn: states of the two parts.
        """
        super().__init__()
        layers = [weight for name, weight in g.items() if name.endswith("weight") and weight.dim() == 2]
        self.f, self.g = f, mlp(layers[0].shape[1], *(len(weight) for weight in layers))
        self.turn = nn.Linear(layers[0].shape[1], 4)
        self.g.load_state_dict(dict(g))
        self.turn.load_state_dict(dict(turn))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> (n, 4 P + 4)."""
        found = []
        for r in range(4):
            h = self.f(torch.rot90(x, r, (2, 3)))
            found.append(torch.cat([self.g(h), self.turn(h)[:, r : r + 1]], 1))
        return torch.cat([*(z[:, :-1] for z in found), *(z[:, -1:] for z in found)], 1)


# The authors' colours are SimCLR's at half the strength, with crops from 0.08, without blur.
_OWN = {
    "batch_size": 128,
    "crop_min": 0.08,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.0,
}
CSI.recipes = recipes(
    cpu={"head": (256, 128), "temperature": 0.2, "batch_size": 64},
    cifar=_OWN,
    imagenet=_OWN,
    vit=_OWN,
)
