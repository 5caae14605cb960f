"""MAE: hide three quarters of an image's patches, encode the others, and decode the pixels of the hidden ones.

Kaiming He, Xinlei Chen, Saining Xie, Yanghao Li, Piotr Dollár and Ross Girshick, "Masked autoencoders are scalable
vision learners", CVPR 2022 (arXiv:2111.06377).

Choose it when the encoder is a vision transformer that will be fine-tuned on labels. Its frozen features are poor
for k-NN: use a linear classifier, or fine-tune.

Shapes: N images, one view, of which T patches; y (N, T, 3 p p), decoded for every patch of p x p pixels from the
encoder's tokens of the kept ones; target (N, T, 3 p p), their pixels; hidden (N, T), 1 where a patch was hidden.

The loss, as plain loops over the hidden patches:

    def loss(y, target, hidden):
        total, count = 0.0, 0.0
        for i in range(len(y)):
            for p in range(len(y[i])):
                if hidden[i][p]:
                    total += sum((a - b) ** 2 for a, b in zip(y[i][p], target[i][p])) / len(target[i][p])
                    count += 1
        return total / count

(The pixels of each patch have mean 0 and variance 1, so 1 is the loss of one who knows nothing.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import collectives
from ..core.config import setting
from ..images.view_settings import Views
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .masks import TokenDecoder, normalised, patch_pixels, shuffled, some
from .recipes import MASKED, WEAK, recipes


@dataclass(frozen=True)
class Config:
    """MAE's own settings."""

    masked: float = setting(
        0.75, "share of the patches that is hidden", low=0.05, high=0.95, source="MAE, section 4.1"
    )
    decoder_width: int = setting(
        512, "width of the decoder's tokens, a multiple of 4", low=4, source="MAE, table 1"
    )
    decoder_depth: int = setting(8, "blocks of the decoder", low=1, source="MAE, table 1")
    normalised: bool = setting(
        True, "bring the pixels of each patch to mean 0 and variance 1", source="MAE, table 1"
    )


class MAE(Method):
    """MAE: f on the kept patches, and a decoder for all."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    modality: ClassVar[str | None] = "images"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.95)  # appendix A.1

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the decoder; see `Config`."""
        super().__init__(f, config)
        self.patch = f.patch
        self.decoder = TokenDecoder(f.dim, config.decoder_width, config.decoder_depth, 3 * self.patch**2)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the hidden patches decoded on held-out images; views need not be near each other."""
        return Expects(
            task="hidden_explained",
            at_chance="raise --lr, lower --masked, and train longer",
            judged=("linear",),  # vectors of neighbours need not be near, as the papers' figures have it
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Encode the kept patches of each view, and decode all."""
        (x,) = batch.views
        side = x.shape[3] // self.patch
        count = side * (x.shape[2] // self.patch)
        kept = some(round(count * (1 - self.config.masked)), count, x, "patch")
        order = shuffled(batch, count).to(x.device)  # (N, T), the kept ones first
        tokens = self.f.tokens(x, order[:, :kept]).patches
        y = self.decoder(tokens, order, side)
        hidden = order.argsort(1) >= kept
        target = patch_pixels(x, self.patch)
        return y, normalised(target) if self.config.normalised else target, hidden

    def loss(self, y: Tensor, target: Tensor, hidden: Tensor) -> Loss:
        """Compare the hidden patches with what was decoded for them."""
        kind = torch.promote_types(y.dtype, torch.float32)
        y, target, hidden = y.to(kind), target.to(kind), hidden.to(kind)
        errors = ((y - target).square().mean(2) * hidden).sum() / hidden.sum()
        spread = ((target - target.mean((0, 1))).square().mean(2) * hidden).sum() / hidden.sum()
        return Loss({"squared_error": errors}, {"error": errors, "spread": spread})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the variance of the hidden pixels was decoded."""
        error, spread = (collectives.total(watched[name]) for name in ("error", "spread"))
        return {"hidden_explained": (1 - error / spread.clamp(min=1e-12)).clamp(min=0)}


_SMALL = {"encoder": "vit_w192_d6", "decoder_width": 96, "decoder_depth": 2}
_LARGE = {**MASKED, "crop_min": 0.2}
MAE.recipes = recipes(
    cpu={**WEAK, **_SMALL},
    cifar={**MASKED, **_SMALL},
    imagenet={**_LARGE, "encoder": "vit_base_patch16_224"},
    vit=_LARGE,
)
