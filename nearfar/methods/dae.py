"""Denoising autoencoder: add noise to an image or blank parts of it, encode it, and decode the image as it was.

Pascal Vincent, Hugo Larochelle, Yoshua Bengio and Pierre-Antoine Manzagol, "Extracting and composing robust features
with denoising autoencoders", ICML 2008; blanked blocks as in Deepak Pathak, Philipp Krähenbühl, Jeff Donahue, Trevor
Darrell and Alexei A. Efros, "Context encoders: Feature learning by inpainting", CVPR 2016 (arXiv:1604.07379).

Choose it when you need a simple baseline, or features that keep how an image looks; for classes other methods are
better.

Shapes: N images, one view x (N, 3, S, S); y (N, 3, S, S), decoded from the encoder's h (N, D) of the corrupted view.

The squared error, as plain loops over all numbers of an image:

    def loss(y, x):
        total = 0.0
        for decoded, image in zip(y, x):
            for a, b in zip(decoded.flatten(), image.flatten()):
                total += (a - b) ** 2 / image.numel()
        return total / len(x)

(The paper sums over the numbers of an image; the mean has the same gradient but for its size.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import rng
from ..core.config import setting
from ..images.view_settings import Views
from ..losses.statistics import variance_explained
from ..models import Encoder
from ..models.decoder import Decoder
from .base import Batch, Expects, Loss, Method
from .recipes import WEAK, recipes

BLOCKS = 8  # in a row and in a column, that are blanked or not


@dataclass(frozen=True)
class Config:
    """The denoising autoencoder's own settings."""

    corruption: str = setting(
        "noise",
        "how a view is corrupted: Gaussian noise, or blanked blocks",
        choices=("noise", "blocks"),
        source="Vincent et al. 2008 blank single pixels; Pathak et al. 2016, section 3.3, blank blocks",
    )
    noise: float = setting(
        0.25,
        "standard deviation of the noise, where pixels are 0 to 1",
        low=0.0,
        source="Vincent et al. 2008",
    )
    blanked: float = setting(
        0.5,
        "share of the blocks that is blanked",
        low=0.0,
        high=1.0,
        source="Vincent et al. 2008: 0.1 to 0.5",
    )


class DAE(Method):
    """Denoising autoencoder: f, and a decoder."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the decoder; see `Config`."""
        super().__init__(f, config)
        self.decoder = Decoder(f.dim, f.size)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by how much of held-out images is decoded rightly."""
        return Expects(task="variance_explained", at_chance="raise --lr, lower --noise, and train longer")

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Spoil the views, encode and decode them."""
        (x,) = batch.views
        return self.decoder(self.f(self.corrupted(batch, x)), x.shape[-1]), x

    def corrupted(self, batch: Batch, x: Tensor) -> Tensor:
        """Add noise to the views, or blank blocks of them."""
        if self.config.corruption == "noise":
            noise = rng.normal(rng.fold(batch.key, "noise"), batch.rows, x[0].numel())
            return x + self.config.noise * torch.from_numpy(noise).to(x).view_as(x)
        u = rng.uniform(rng.fold(batch.key, "blocks"), batch.rows, BLOCKS**2)
        seen = torch.from_numpy(u >= self.config.blanked).to(x).view(-1, 1, BLOCKS, BLOCKS)
        seen = torch.nn.functional.interpolate(seen, x.shape[-2:], mode="nearest")
        return x * seen + 0.5 * (1 - seen)

    def loss(self, y: Tensor, x: Tensor) -> Loss:
        """Compare what was decoded with the views as they were."""
        kind = torch.promote_types(y.dtype, torch.float32)
        y, x = y.to(kind), x.to(kind)
        return Loss({"squared_error": (y - x).square().mean()}, {"y": y, "x": x})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the variance of the pixels was decoded."""
        return {"variance_explained": variance_explained(watched["y"], watched["x"])}


_ADAM = {**WEAK, "optimizer": "adamw", "lr": 1e-3, "lr_scaling": "fixed"}
DAE.recipes = recipes(
    cpu=WEAK,
    cifar=_ADAM,
    imagenet=_ADAM,
    vit={**_ADAM, "weight_decay": 1e-6},
)
