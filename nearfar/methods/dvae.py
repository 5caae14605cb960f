"""Discrete VAE: write an image as one word of a vocabulary for each place, and decode it from these words.

Aditya Ramesh, Mikhail Pavlov, Gabriel Goh, Scott Gray, Chelsea Voss, Alec Radford, Mark Chen and Ilya Sutskever,
"Zero-shot text-to-image generation", ICML 2021 (arXiv:2102.12092), whose words BEiT predicts.

Choose it when you train BEiT, which needs words to predict: train this one first, on the same images.

Shapes: N images, one view x (N, 3, S, S); s (N, T, K), how well each of K words fits each of T places of the encoder's
last map; y (N, 3, S, S), decoded from the words that are drawn for the places: softmax((s + Gumbel noise) / tau).

The squared error and the distance of the words from evenly drawn ones, as plain loops:

    def loss(y, x, s, kl):
        total, words = 0.0, len(s[0][0])
        for i in range(len(y)):
            for a, b in zip(y[i].flatten(), x[i].flatten()):
                total += (a - b) ** 2 / x[i].numel()
            for place in s[i]:
                below = sum(exp(a) for a in place)
                total += kl / len(s[i]) * sum(exp(a) / below * log(words * exp(a) / below) for a in place)
        return total / len(y)

(The paper's likelihood of pixels is a Laplace distribution of their logits. The squared error without a distance is what
BEiT's authors have for a tokenizer of one's own. Temperature tau falls from 1 to its end. The encoder `resnet5_w64` has a
place for 4 x 4 pixels: for patches of 16, train it at a quarter of the side.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..images.view_settings import Views
from ..losses.statistics import variance_explained
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .recipes import WEAK, recipes

USAGE = 0.9  # momentum of how often each word is used
APART = 6.0  # standard deviation of s at first, five times that of the Gumbel noise


@dataclass(frozen=True)
class Config:
    """The discrete VAE's own settings."""

    words: int = setting(
        512,
        "words of the vocabulary, K",
        low=2,
        source="BEiT's code, for a tokenizer of one's own; DALL-E: 8192",
    )
    word_temperature: float = setting(
        0.0625, "temperature at the end; it begins at 1", low=0.003, high=1.0, source="DALL-E, section 2.1"
    )
    kl: float = setting(
        0.0, "weight of the distance of the words from evenly drawn ones", low=0.0,
        source="BEiT's code, for a tokenizer of one's own; DALL-E: 6.6",
    )  # fmt: skip


class Words(nn.Module):
    """One linear layer from a place of a map to the words, and how often each word is used.

    So that places begin with words of their own, and not all with the same few, each channel has its mean taken
    off first, as after a ReLU all places have much in common, and words begin `APART`.
    """

    usage: Tensor

    def __init__(self, width: int, words: int) -> None:
        """Build it for maps of `width` channels."""
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.layer = nn.Linear(width, words)
        nn.init.normal_(self.layer.weight, std=APART / math.sqrt(width))
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("usage", torch.full((words,), 1 / words))

    def forward(self, level: Tensor) -> Tensor:
        """(n, width, h, w) -> (n, h * w, words), how well each fits."""
        found: Tensor = self.layer(self.norm(level).flatten(2).transpose(1, 2))
        return found


class DVAE(Method):
    """Discrete VAE: f, its words with a code for each, and a decoder from a map of codes."""

    modality: ClassVar[str | None] = "images"
    keep: ClassVar[tuple[str, ...]] = ("words",)

    done: Tensor

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the words and the decoder; see `Config`."""
        super().__init__(f, config)
        self.stride, width = f.strides[-1], f.map_widths[-1]
        self.words = Words(width, config.words)
        self.codes = nn.Parameter(torch.randn(config.words, width))
        self.decoder = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            last := nn.Conv2d(width, 3 * self.stride**2, 1),
            nn.PixelShuffle(self.stride),
        )
        nn.init.constant_(last.bias, 0.5)  # type: ignore[arg-type]
        self.register_buffer("done", torch.zeros(()))

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by how much of held-out images is decoded rightly."""
        return Expects(task="variance_explained", at_chance="raise --lr, and train longer")

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Draw a word for each place of the view, nearly one at a low temperature, and decode their codes."""
        (x,) = batch.views
        level = self.f.maps(x)[-1]
        s = self.words(level)
        u = rng.uniform(rng.fold(batch.key, "words"), batch.rows, s[0].numel())
        wide = s.to(torch.promote_types(s.dtype, torch.float32))  # a low temperature makes much of a rounding
        noise = torch.from_numpy(-np.log(-np.log(u.clip(1e-9)))).to(wide).view_as(wide)
        tau = self.config.word_temperature**self.done
        drawn = ((wide + noise) / tau).softmax(2)
        codes = (drawn @ self.codes.to(drawn.dtype)).transpose(1, 2).unflatten(2, level.shape[2:])
        return self.decoder(codes)[:, :, : x.shape[2], : x.shape[3]], x, s

    def loss(self, y: Tensor, x: Tensor, s: Tensor) -> Loss:
        """Compare what was decoded with the views, and where asked the words with evenly drawn ones."""
        kind = torch.promote_types(y.dtype, torch.float32)
        y, x, s = y.to(kind), x.to(kind), s.to(kind)
        terms = {"squared_error": (y - x).square().mean()}
        if self.config.kl:
            q = s.log_softmax(2)
            terms["kl"] = self.config.kl * ((q.exp() * q).sum(2) + math.log(s.shape[2])).mean()
        used = F.one_hot(s.argmax(2).flatten(), s.shape[2]).to(kind).mean(0)
        return Loss(terms, {"y": y, "x": x, "used": used})

    @torch.no_grad()
    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Note how often each word is used, and lower the temperature."""
        used = collectives.total(watched["used"]) / distributed.world()
        self.words.usage.lerp_(used.to(self.words.usage.dtype), 1 - USAGE)
        self.done.fill_(progress)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the variance of the pixels was decoded, and how many words are in use."""
        used = collectives.total(watched["used"]) / distributed.world()
        return {
            "variance_explained": variance_explained(watched["y"], watched["x"]),
            "words_used": perplexity(used),
        }


def perplexity(used: Tensor) -> Tensor:
    """Count how many words, evenly used, would be as hard to tell as those of a given usage.

    Args:
        used: (K,), shares that sum to 1.

    Returns:
        A scalar from 1, where one word is used alone, to K.
    """
    return (-(used * used.clamp(min=1e-12).log()).sum()).exp()


_SMALL = {**WEAK, "encoder": "resnet5_w64"}
_ADAM = {"optimizer": "adamw", "lr": 1e-3, "lr_scaling": "fixed"}
DVAE.recipes = recipes(
    cpu={**_SMALL, "kl": 0.003},  # without it, a short run uses few words (docs/decisions.md)
    cifar={**_SMALL, **_ADAM},
    imagenet={**_SMALL, **_ADAM},
    vit={**WEAK, **_ADAM, "weight_decay": 1e-6},
)
