"""SigLIP: say of each image and each caption of the batch, pair by pair, whether they belong together.

Xiaohua Zhai, Basil Mustafa, Alexander Kolesnikov and Lucas Beyer, "Sigmoid loss for language image pre-training", ICCV
2023 (arXiv:2303.15343).

Choose it when your images have captions, titles or reports, and the batch has fewer than 512 pairs: no pair depends on
how many others there are. Afterwards images are found and classified by words.

With `--weights known --trainable none` the encoder of images stays as it is, and captions learn to fit it, which the
paper calls SigLiT (section 4.1).

Shapes: N pairs; x, y (N, P) of length 1, from the encoders of images and captions and their projections; s, b (N,),
each e^t and each b, two learnt numbers; c (N,), a number of each caption: equal captions are not compared.

Section 3.2, as plain loops:

    def loss(x, y, s, b, c):
        total, scale, bias = 0.0, sum(s) / len(s), sum(b) / len(b)
        for i in range(len(x)):
            for j in range(len(x)):
                z = scale * dot(x[i], y[j]) + bias
                if i == j:
                    total += log(1 + exp(-z))
                elif c[i] != c[j]:
                    total += log(1 + exp(z))
        return total / len(x)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .. import losses
from ..core.config import setting
from ..models import Encoder
from .base import Batch, Loss
from .image_text import ImageText, Scale
from .recipes import recipes

T, B = math.log(10.0), -10.0  # where t and b start; section 3.2


@dataclass(frozen=True)
class Config:
    """SigLIP's own settings."""

    text_encoder: str = setting(
        "text_w128_d2",
        "encoder of captions: a network of nearfar for texts, or a run or folder of one that knows texts",
        source="ours; SigLIP has a transformer of 12 blocks",
    )
    width: int = setting(
        256, "numbers in the vectors that images and captions share", low=1, source="ours; SigLIP has 768"
    )


class SigLIP(ImageText):
    """SigLIP: two encoders, two projections, a learnt scale and bias, and a loss over all pairs."""

    modality: ClassVar[str | None] = "pairs"
    usual_from: ClassVar[int | None] = 0

    def __init__(self, f: Encoder, config: Config = Config(), *, text: Encoder) -> None:
        """Add the projections, the scale and the bias; see `Config`."""
        super().__init__(f, config, text, Scale(T, B))

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn images and captions into x and y."""
        x, y, s, c = self.rows(batch)
        assert self.scale.b is not None
        return x, y, s, self.scale.b.to(x.dtype).expand(len(x)), c

    def loss(self, x: Tensor, y: Tensor, s: Tensor, b: Tensor, c: Tensor) -> Loss:
        """Ask of each pair whether it belongs together: section 3.2."""
        return Loss({"siglip": losses.siglip(x, y, s.mean(), b.mean(), c)}, {"x": x, "y": y, "s": s, "c": c})


SigLIP.recipes = recipes(cpu={"batch_size": 64})
