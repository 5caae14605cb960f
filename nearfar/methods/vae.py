"""VAE: encode an image as a normal distribution of a few numbers, and decode it from a sample of them.

Diederik P. Kingma and Max Welling, "Auto-encoding variational Bayes", ICLR 2014 (arXiv:1312.6114); the variance of the
pixels as in Oleh Rybkin, Kostas Daniilidis and Sergey Levine, "Simple and effective VAE training with calibrated
decoders", ICML 2021 (arXiv:2006.13202).

Choose it when you need a few numbers that describe how images look, or a baseline; for classes other methods are
better.

Shapes: N images, one view x (N, 3, S, S); mu and log_var (N, L) from the encoder's h (N, D) and a linear layer; y
(N, 3, S, S), decoded from z = mu + exp(log_var / 2) eps, where eps is normal.

The negative evidence lower bound for each number of an image, as plain loops:

    def loss(y, x, mu, log_var, beta):
        n, d, total = len(x), x[0].numel(), 0.0
        variance = stop(sum(((a - b) ** 2).sum() for a, b in zip(y, x)) / (n * d))
        for i in range(n):
            total += ((y[i] - x[i]) ** 2).sum() / (2 * variance) + d / 2 * log(2 * pi * variance)
            total += beta / 2 * sum(m**2 + exp(v) - 1 - v for m, v in zip(mu[i], log_var[i]))
        return total / (n * d)

(The variance of the pixels around what is decoded is that of the batch, which is the best one: a fixed variance
is a hidden beta, and with 1 the numbers stay unused.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..images.view_settings import Views
from ..losses.statistics import centred, variance_explained
from ..models import Encoder
from ..models.decoder import Decoder
from .base import Batch, Expects, Loss, Method
from .recipes import WEAK, recipes

ACTIVE = 0.01  # variance over images of a number's mean above which it says something


@dataclass(frozen=True)
class Config:
    """The VAE's own settings."""

    latent: int = setting(
        128, "numbers that an image is decoded from", low=1, source="ours, for small images"
    )
    beta: float = setting(
        1.0,
        "weight of the distance of the numbers from a normal distribution",
        low=0.0,
        source="Kingma and Welling 2014, equation 10",
    )


class VAE(Method):
    """VAE: f, a linear layer to means and variances, and a decoder."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the layer and the decoder; see `Config`."""
        super().__init__(f, config)
        self.q = nn.Linear(f.dim, 2 * config.latent)
        self.decoder = Decoder(config.latent, f.size)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by how much of held-out images is decoded rightly."""
        return Expects(task="variance_explained", at_chance="raise --lr, lower --beta, and train longer")

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Encode the views, sample numbers for each, and decode them."""
        (x,) = batch.views
        mu, log_var = self.q(self.f(x)).chunk(2, 1)
        eps = rng.normal(rng.fold(batch.key, "eps"), batch.rows, mu.shape[1])
        z = mu + (log_var / 2).exp() * torch.from_numpy(eps).to(mu)
        return self.decoder(z, x.shape[-1]), x, mu, log_var

    def loss(self, y: Tensor, x: Tensor, mu: Tensor, log_var: Tensor) -> Loss:
        """Compare what was decoded with the views, and the numbers with a normal distribution: equation 10."""
        kind = torch.promote_types(y.dtype, torch.float32)
        y, x, mu, log_var = y.to(kind), x.to(kind), mu.to(kind), log_var.to(kind)
        errors = (y - x).square().mean()
        variance = (collectives.total(errors.detach()) / distributed.world()).clamp(min=1e-6)
        likelihood = errors / (2 * variance) + (2 * math.pi * variance).log() / 2
        kl = (mu.square() + log_var.exp() - 1 - log_var).sum(1).mean() / 2
        terms = {"reconstruction": likelihood, "kl": self.config.beta * kl / x[0].numel()}
        return Loss(terms, {"y": y, "x": x, "mu": mu})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the pixels' variance was decoded, and how many of the numbers say something."""
        mu = watched["mu"]
        variance = collectives.total(centred(mu).square().mean(0)) / distributed.world()
        return {
            "variance_explained": variance_explained(watched["y"], watched["x"]),
            "active_numbers": (variance > ACTIVE).sum().float(),
        }


_ADAM = {**WEAK, "optimizer": "adamw", "lr": 1e-3, "lr_scaling": "fixed"}
VAE.recipes = recipes(
    cpu=WEAK,
    cifar=_ADAM,
    imagenet=_ADAM,
    vit={**_ADAM, "weight_decay": 1e-6},
)
