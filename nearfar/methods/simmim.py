"""SimMIM: hide blocks of an image, encode it, and predict the hidden pixels by one linear layer.

Zhenda Xie, Zheng Zhang, Yue Cao, Yutong Lin, Jianmin Bao, Zhuliang Yao, Qi Dai and Han Hu, "SimMIM: A simple framework
for masked image modeling", CVPR 2022 (arXiv:2111.09886).

Choose it when you want to learn from hidden parts with any encoder, convolutional ones too, and will fine-tune it on
labels.

Shapes: N images, one view x (N, 3, S, S); hidden (N, S, S), 1 where a pixel was hidden by a learned block; y (N, 3, S,
S) from the encoder's last feature map and one linear layer.

The absolute error over the hidden pixels, as plain loops:

    def loss(y, x, hidden):
        total = 0.0
        for decoded, image, mask in zip(y, x, hidden):
            for a, b in zip(decoded, image):
                total += (abs(a - b) * mask).sum()
        return total / (3 * hidden.sum())

(The paper replaces tokens; a block of learned pixels becomes a token where patches are embedded, and serves
convolutional encoders as well.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives
from ..core.config import setting
from ..core.errors import NearfarError
from ..images.view_settings import Views
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .masks import shuffled, some
from .recipes import MASKED, WEAK, recipes


@dataclass(frozen=True)
class Config:
    """SimMIM's own settings."""

    masked: float = setting(
        0.6, "share of the blocks that is hidden", low=0.05, high=0.95, source="SimMIM, section 4.1"
    )
    block: int = setting(
        4, "side of a hidden block, in pixels", low=1, source="SimMIM, section 4.1: 32 for images of 192 px"
    )


class SimMIM(Method):
    """SimMIM: f on images with hidden blocks, and one linear layer from its last map to pixels."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the layer and the learned block; see `Config`."""
        super().__init__(f, config)
        self.stride = f.strides[-1]
        self.g = nn.Conv2d(f.map_widths[-1], 3 * self.stride**2, 1)
        self.hide = nn.Parameter(0.5 + 0.02 * torch.randn(3, config.block, config.block))

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the hidden pixels predicted on held-out images; views need not be near each other."""
        return Expects(
            task="hidden_explained",
            at_chance="raise --lr, lower --masked, and train longer",
            judged=("linear",),  # vectors of neighbours need not be near, as the papers' figures have it
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Hide blocks of each view, and predict all pixels."""
        (x,) = batch.views
        block, side = self.config.block, x.shape[3] // self.config.block
        if side * block != x.shape[3]:
            raise NearfarError(
                f"views of {x.shape[3]} px do not divide into blocks of {block} px; change --block or --image-size."
            )
        count = some(round(side**2 * self.config.masked), side**2, x, "block")
        order = shuffled(batch, side**2).to(x.device)
        hidden = (order.argsort(1) < count).view(-1, 1, side, side).to(x.dtype)
        hidden = F.interpolate(hidden, scale_factor=block, mode="nearest")  # (N, 1, S, S)
        y = self.f.maps(x * (1 - hidden) + self.hide.repeat(1, side, side).to(x.dtype) * hidden)[-1]
        y = F.pixel_shuffle(self.g(y), self.stride)
        return y[:, :, : x.shape[2], : x.shape[3]], x, hidden[:, 0] > 0

    def loss(self, y: Tensor, x: Tensor, hidden: Tensor) -> Loss:
        """Compare the hidden pixels with what was predicted for them."""
        kind = torch.promote_types(y.dtype, torch.float32)
        y, x, hidden = y.to(kind), x.to(kind), hidden.to(kind)[:, None]
        count = 3 * hidden.sum()
        error = ((y - x).square() * hidden).sum() / count
        spread = ((x - x.mean(0)).square() * hidden).sum() / count
        return Loss(
            {"absolute_error": ((y - x).abs() * hidden).sum() / count}, {"error": error, "spread": spread}
        )

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the variance of the hidden pixels was predicted."""
        error, spread = (collectives.total(watched[name]) for name in ("error", "spread"))
        return {"hidden_explained": (1 - error / spread.clamp(min=1e-12)).clamp(min=0)}


# The authors' code: 1e-4 for 512 images.
_LARGE = {**MASKED, "lr": 5e-5, "crop_min": 0.67, "block": 32}
SimMIM.recipes = recipes(
    cpu=WEAK,
    cifar={**MASKED, "encoder": "vit_w192_d6", "lr": 1e-4},
    imagenet={**_LARGE, "encoder": "vit_base_patch16_224"},
    vit=_LARGE,
)
