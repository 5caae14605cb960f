"""CLIP: find each image's caption among all captions of the batch, and each caption's image among all images.

Alec Radford, Jong Wook Kim, Chris Hallacy, Aditya Ramesh, Gabriel Goh, Sandhini Agarwal, Girish Sastry, Amanda Askell,
Pamela Mishkin, Jack Clark, Gretchen Krueger and Ilya Sutskever, "Learning transferable visual models from natural
language supervision", ICML 2021 (arXiv:2103.00020).

Choose it when your images have captions, titles or reports, and batches of 512 pairs or more fit; with smaller ones,
SigLIP needs no large batch. Afterwards images are found and classified by words.

With `--weights known --trainable none` the encoder of images stays as it is, and captions learn to fit it (LiT,
Zhai et al. 2022, arXiv:2111.07991).

Shapes: N pairs; x, y (N, P) of length 1, from the encoders of images and captions and their projections; s (N,), each
e^t, a learnt number; c (N,), a number of each caption: equal captions are no negatives of each other.

Figure 3, as plain loops:

    def loss(x, y, s, c):
        total, scale = 0.0, sum(s) / len(s)
        for i in range(len(x)):
            others = [k for k in range(len(x)) if k == i or c[k] != c[i]]
            of_image = sum(exp(scale * dot(x[i], y[k])) for k in others)
            of_text = sum(exp(scale * dot(x[k], y[i])) for k in others)
            total += log(of_image) + log(of_text) - 2 * scale * dot(x[i], y[i])
        return total / (2 * len(x))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import losses
from ..core.config import setting
from ..models import Encoder
from .base import Batch, Loss
from .image_text import ImageText, Scale

START, MOST = math.log(1 / 0.07), math.log(100.0)  # of t; section 2.5


@dataclass(frozen=True)
class Config:
    """CLIP's own settings."""

    text_encoder: str = setting(
        "text_w128_d2",
        "encoder of captions: a network of nearfar for texts, or a run or folder of one that knows texts",
        source="ours; CLIP has a transformer of 12 blocks",
    )
    width: int = setting(
        256, "numbers in the vectors that images and captions share", low=1, source="ours; CLIP has 512"
    )


class CLIP(ImageText):
    """CLIP: two encoders, two projections, a learnt scale that is at most 100, and a loss both ways."""

    modality: ClassVar[str | None] = "pairs"
    usual_from: ClassVar[int | None] = 512  # Zhai et al. 2023, SigLIP: below, its loss is the better one

    def __init__(self, f: Encoder, config: Config = Config(), *, text: Encoder) -> None:
        """Add the projections and the scale; see `Config`."""
        super().__init__(f, config, text, Scale(START))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn images and captions into x and y."""
        return self.rows(batch)

    def loss(self, x: Tensor, y: Tensor, s: Tensor, c: Tensor) -> Loss:
        """Let each image find its caption, and each caption its image: figure 3."""
        return Loss({"clip": losses.clip(x, y, s.mean(), c)}, {"x": x, "y": y, "s": s, "c": c})

    @torch.no_grad()
    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Keep the scale at 100 or less: section 2.5."""
        self.scale.t.clamp_(max=MOST)
