"""BiGAN: encode images and generate images from numbers, such that nothing tells the two kinds of pairs apart.

Jeff Donahue, Philipp Krähenbühl and Trevor Darrell, "Adversarial feature learning", ICLR 2017 (arXiv:1605.09782), and, with
the same game as ALI, Vincent Dumoulin, Ishmael Belghazi, Ben Poole, Olivier Mastropietro, Alex Lamb, Martin Arjovsky and
Aaron Courville, "Adversarially learned inference", ICLR 2017 (arXiv:1606.00704).

Choose it when you want to compare with a generative adversarial network, or to generate images; for features other methods
are better, and two networks that play against each other need care.

Shapes: N images, one view x (N, 3, S, S), with E(x) (N, L) from the encoder f and a linear layer; z (N, L), normal numbers,
with G(z) (N, 3, S, S) from the generator; real and made (N,), the discriminator's scores of the pairs
(x, E(x)) and (G(z), z), through which the discriminator alone learns; encoded and generated (N,), the same scores, through
which the encoder and the generator learn.

The losses of the two sides, as plain loops:

    def loss(real, made, encoded, generated):
        total = 0.0
        for i in range(len(real)):
            total += (max(1 - real[i], 0 * real[i]) + max(1 + made[i], 0 * made[i])) / len(real)
            total += (encoded[i] - generated[i]) / len(real)
        return total

(The papers have logistic losses, and layers without a bound. The hinge and a bound on what a layer of the discriminator
stretches are the forms of Takeru Miyato, Toshiki Kataoka, Masanori Koyama and Yuichi Yoshida, "Spectral normalization for
generative adversarial networks", ICLR 2018 (arXiv:1802.05957). E(x) has mean 0 and variance 1 over a batch, as z has; both
sides take a step at the same time, as in ALI. The discriminator has the encoder's momenta, its score is one number of both, and
the encoder is kept as it is trained, without a moving average.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..images.view_settings import Views
from ..models import Encoder
from ..models.decoder import Decoder
from .base import Batch, Expects, Loss, Method
from .recipes import WEAK, recipes

WIDTHS, UNITS = (32, 64, 128), 256  # of the discriminator's convolutions and linear layers


@dataclass(frozen=True)
class Config:
    """BiGAN's own settings."""

    latent: int = setting(50, "numbers that an image is made from", low=1, source="BiGAN's code: 50, or 200")


class Bounded(nn.Module):
    """A layer whose weight is divided by its largest singular value, so that no distance grows in it.

    The vector of that value is a buffer, which `turn` brings nearer to the weight's own after each step.

    Source:
        Miyato et al. 2018, "Spectral normalization for generative adversarial networks", algorithm 1.
    """

    u: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Take a layer."""
        super().__init__()
        self.layer = layer
        self.register_buffer("u", F.normalize(torch.randn(len(layer.weight)), dim=0))
        self.turn(10)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its bounded weight."""
        matrix = self.layer.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize((matrix * self.u[:, None]).sum(0), dim=0)
        bounded = self.layer.weight / (matrix * self.u[:, None] * v).sum()
        if isinstance(self.layer, nn.Conv2d):
            return F.conv2d(x, bounded, self.layer.bias, self.layer.stride, self.layer.padding)
        return F.linear(x, bounded, self.layer.bias)

    @torch.no_grad()
    def turn(self, times: int = 1) -> None:
        """Turn the vector towards that of the largest singular value."""
        matrix = self.layer.weight.flatten(1)
        for _ in range(times):
            self.u.copy_(F.normalize(matrix @ (matrix.T @ self.u), dim=0))


class Discriminator(nn.Module):
    """A score of pairs of an image and numbers; its layers are bounded."""

    def __init__(self, latent: int) -> None:
        """Build it with random weights."""
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [Bounded(nn.Conv2d(inside, outside, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.on_images = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.on_numbers = nn.Sequential(Bounded(nn.Linear(latent, UNITS)), nn.LeakyReLU(0.2))
        self.on_both = nn.Sequential(
            Bounded(nn.Linear(16 * WIDTHS[-1] + UNITS, UNITS)),
            nn.LeakyReLU(0.2),
            Bounded(nn.Linear(UNITS, 1, bias=False)),
        )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] and (N, L) -> (N,)."""
        found: Tensor = self.on_both(torch.cat([self.on_images(2 * x - 1), self.on_numbers(z)], 1))
        return found[:, 0]


class BiGAN(Method):
    """BiGAN: f and a normalised linear layer as encoder, a generator, and a discriminator of pairs.

    AdamW treats every weight by itself, so that one optimizer over all is one for each side.
    """

    modality: ClassVar[str | None] = "images"
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the layer, the generator and the discriminator; see `Config`."""
        super().__init__(f, config)
        self.q = nn.Sequential(
            nn.Linear(f.dim, config.latent, bias=False), nn.BatchNorm1d(config.latent, affine=False)
        )
        self.generator = Decoder(config.latent, f.size)
        self.discriminator = Discriminator(config.latent)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by how often what is generated from a held-out image's numbers is nearest to that image."""
        return Expects(task="images_found", chance=None, at_chance="train longer, or change --lr a little")

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Make both kinds of pairs, and score them once for each side."""
        (x,) = batch.views
        drawn = rng.normal(rng.fold(batch.key, "numbers"), batch.rows, self.config.latent)
        z = torch.from_numpy(drawn).to(x)
        told = self.q(self.f(x)).to(x.dtype)
        images, numbers = torch.cat([x, self.generated(z, x.shape[-1]).to(x.dtype)]), torch.cat([told, z])
        real, made = self.discriminator(images.detach(), numbers.detach()).chunk(2)
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        encoded, generated = functional_call(self.discriminator, fixed, (images, numbers)).chunk(2)
        with torch.no_grad():
            again = self.generated(told, x.shape[-1])
        return real, made, encoded, generated, x, again

    def generated(self, z: Tensor, side: int) -> Tensor:
        """Generate images from numbers: (n, L) -> (n, 3, side, side) in [0, 1]."""
        made: Tensor = self.generator(z, side).sigmoid()
        return made

    def loss(
        self, real: Tensor, made: Tensor, encoded: Tensor, generated: Tensor, x: Tensor, again: Tensor
    ) -> Loss:
        """Let the discriminator tell the pairs apart, and the encoder and the generator make them alike."""
        kind = torch.promote_types(real.dtype, torch.float32)
        real, made, encoded, generated = (score.to(kind) for score in (real, made, encoded, generated))
        terms = {
            "discriminator": F.relu(1 - real).mean() + F.relu(1 + made).mean(),
            "encoder_generator": encoded.mean() - generated.mean(),
        }
        return Loss(terms, {"right": (real > made).to(kind).mean(), "x": x, "again": again})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Follow the discriminator's largest singular values."""
        for part in self.discriminator.modules():
            if isinstance(part, Bounded):
                part.turn()

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often G(E(x)) is nearer to x than to other images, and how often the discriminator is right."""
        x, again = (watched[name].float().flatten(1) for name in ("x", "again"))
        found = torch.cdist(again, x).argmin(1) == torch.arange(len(x), device=x.device)
        shares = {"images_found": found.float().mean(), "told_apart": watched["right"].float()}
        return {name: collectives.total(share) / distributed.world() for name, share in shares.items()}


_SLOW = {
    **WEAK,
    "optimizer": "adamw",
    "lr": 2e-4,
    "lr_scaling": "fixed",
    "weight_decay": 2.5e-5,
    "batch_size": 128,
}
_LARGE = {**_SLOW, "latent": 200}
BiGAN.recipes = recipes(cpu=_SLOW, cifar=_SLOW, imagenet=_LARGE, vit=_LARGE)
