"""CutPaste: paste a patch of an image elsewhere in it, and tell such images from those as they were.

Chun-Liang Li, Kihyuk Sohn, Jinsung Yoon and Tomas Pfister, "CutPaste: self-supervised learning for anomaly
detection and localization", CVPR 2021 (arXiv:2104.04015).

Choose it when all images are normal and defects are to be found in new ones: it learns to see what is broken,
on textures and products. Its features say little about what an image shows.

Shapes: N images, one view; of each three versions v: 0 as it is, 1 with a pasted patch, 2 with a thin one, a
"scar", turned by up to 45 degrees; logits (N, 3, 3) from the encoder f and a linear layer g: for each image and
version, one number per possible version.

Equation 1, of three kinds as in section 2.3, as plain loops:

    def loss(logits):
        total = 0.0
        for n in range(len(logits)):
            for v in range(3):
                total += -log(exp(logits[n][v][v]) / sum(exp(x) for x in logits[n][v]))
        return total / (3 * len(logits))

(The authors have more layers between f and g, and paste into each image of a batch one kind of patch.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed, rng
from ..images.view_settings import Views
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .recipes import recipes

AREA = (0.02, 0.15)  # of a patch, as a share of the image
ASPECT = 3.3  # greatest ratio of its sides, either way
SCAR = ((2 / 256, 16 / 256), (10 / 256, 25 / 256))  # width and height of a scar, as shares of the side
TURN = math.pi / 4  # most by which a scar is turned
BRIGHTNESS = 0.1  # most by which a patch becomes lighter or darker
DRAWN = 16  # numbers an image: eight for each kind of patch


@dataclass(frozen=True)
class Config:
    """CutPaste's own settings: none; its recipes make the views weak."""


class CutPaste(Method):
    """CutPaste: f, a linear layer g, and cross-entropy over three versions of an image."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the linear layer; see `Config`."""
        super().__init__(f, config)
        self.g = nn.Linear(f.dim, 3)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the versions told on held-out images, of which a third is chance."""
        return Expects(
            task="cutpaste_accuracy",
            chance=1 / 3,
            at_chance="raise --lr and train longer",
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor]:
        """Make two pasted versions of each image, and ask which version each is."""
        (x,) = batch.views
        drawn = torch.from_numpy(rng.uniform(rng.fold(batch.key, "patches"), batch.rows.numpy(), DRAWN)).to(x)
        versions = torch.cat([x, paste(x, drawn[:, :8], scar=False), paste(x, drawn[:, 8:], scar=True)])
        return (self.g(self.f(versions)).unflatten(0, (3, -1)).transpose(0, 1),)  # (N, 3, 3)

    def loss(self, logits: Tensor) -> Loss:
        """Compare what is said of each version with what it is: equation 1."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        version = torch.arange(3, device=logits.device).expand(len(logits), 3)  # (N, 3)
        right = logits.argmax(2) == version
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), version.flatten())
        return Loss({"cross_entropy": cross_entropy}, {"right": right})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the versions was told rightly; a third is chance."""
        return {"cutpaste_accuracy": collectives.total(watched["right"].float().mean()) / distributed.world()}


def paste(x: Tensor, drawn: Tensor, *, scar: bool) -> Tensor:
    """Copy a patch of each image to another place of it.

    Args:
        x: (n, 3, h, w) in [0, 1].
        drawn: (n, 8) uniform numbers in [0, 1): size, shape, place it is taken from and put to, turn, light.
        scar: thin and turned, instead of large and upright.

    Returns:
        (n, 3, h, w), changed inside the patch alone.

    Source:
        Li et al. 2021, sections 2.1 and 2.2 and appendix A.
    """
    height, width = x.shape[2:]
    u = [drawn[:, at, None, None].float() for at in range(8)]  # (n, 1, 1) each
    side = min(height, width)
    if scar:
        wide = (SCAR[0][0] + (SCAR[0][1] - SCAR[0][0]) * u[0]) * side
        tall = (SCAR[1][0] + (SCAR[1][1] - SCAR[1][0]) * u[1]) * side
        turn = TURN * (2 * u[6] - 1)
    else:
        area = (AREA[0] + (AREA[1] - AREA[0]) * u[0]) * height * width
        ratio = torch.exp(math.log(ASPECT) * (2 * u[1] - 1))
        wide, tall, turn = (area * ratio).sqrt(), (area / ratio).sqrt(), torch.zeros_like(u[6])
    # At least a pixel; and no larger than the image, which may be narrow.
    wide, tall = wide.clamp(1.0, width - 1.0), tall.clamp(1.0, height - 1.0)
    down = torch.arange(height, device=x.device).view(1, -1, 1) + 0.5
    across = torch.arange(width, device=x.device).view(1, 1, -1) + 0.5
    from_y, to_y = (tall / 2 + (height - tall) * one for one in (u[2], u[4]))
    from_x, to_x = (wide / 2 + (width - wide) * one for one in (u[3], u[5]))
    # Places relative to the middle of the pasted patch, turned back to how it lay where it was taken.
    a = torch.cos(turn) * (across - to_x) + torch.sin(turn) * (down - to_y)  # (n, h, w)
    b = torch.cos(turn) * (down - to_y) - torch.sin(turn) * (across - to_x)
    inside = (a.abs() <= wide / 2) & (b.abs() <= tall / 2)
    rows = (from_y + b).floor().clamp(0, height - 1).long()
    columns = (from_x + a).floor().clamp(0, width - 1).long()
    place = (rows * width + columns).flatten(1)[:, None].expand(-1, 3, -1)
    taken = x.flatten(2).gather(2, place).view_as(x)
    light = (1 + BRIGHTNESS * (2 * u[7] - 1)).to(x.dtype)[:, None]
    return torch.where(inside[:, None], (taken * light).clamp(0, 1), x)


_WEAK = {"crop_min": 0.6, "colour": "change", "jitter": 0.0, "grayscale": 0.0, "blur": 0.0}
"""Crops and flips alone: a stronger change would look like a defect."""

# 64 normal and 64 pasted images a step in the paper; here three versions of each image.
CutPaste.recipes = recipes(
    cpu={**_WEAK, "batch_size": 64},
    cifar={**_WEAK, "batch_size": 64, "lr": 0.03, "lr_scaling": "fixed"},
    imagenet={
        **_WEAK,
        "optimizer": "sgd",
        "lr": 0.03,
        "lr_scaling": "fixed",
        "weight_decay": 3e-5,
        "warmup": 0.0,
    },
    vit=_WEAK,
)
