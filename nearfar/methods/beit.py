"""BEiT: hide blocks of an image, and predict the words that a tokenizer, trained first, gives hidden patches.

Hangbo Bao, Li Dong, Songhao Piao and Furu Wei, "BEiT: BERT pre-training of image transformers", ICLR 2022
(arXiv:2106.08254).

Choose it when the encoder is a vision transformer that will be fine-tuned on labels, and you want to compare words with
the pixels that MAE predicts: MAE is simpler, and needs no tokenizer.

Shapes: N images, one view, of whose patches M are hidden, at `at` (N, M); y (N, M, K), how well each of K words fits
each hidden patch; words (N, M), the tokenizer's words for them in the whole view.

Equation 2, as plain loops over the hidden patches:

    def loss(y, words):
        total = 0.0
        for i in range(len(y)):
            for p in range(len(y[i])):
                below = sum(exp(a) for a in y[i][p])
                total -= log(exp(y[i][p][words[i][p]]) / below) / (len(y) * len(y[i]))
        return total

(The paper's tokenizer is DALL-E's, trained on 250 million images. Here it is one of your own, of `--method dvae`, trained
on your images. The paper masks tokens; a patch of learned pixels becomes a token where patches are embedded.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..core.errors import NearfarError, fitting
from ..images.view_settings import Views
from ..models import Encoder
from .base import Batch, Expects, Loss, Method
from .dvae import Words, perplexity
from .masks import some
from .recipes import MASKED, WEAK, recipes

SMALLEST, ASPECT = 16 / 196, 0.3  # of a block: share of the image, and least height to width; algorithm 1
ROUNDS = 8  # blocks that are drawn for an image; what is missing then is drawn patch by patch
USED = 0.1  # share of its words that a tokenizer must use


class HasWords(Protocol):
    """The tokenizer's run: its encoder, in eval mode, and what its method saved with it."""

    @property
    def encoder(self) -> Encoder:
        """The encoder whose last map has a word for each place."""
        ...

    @property
    def parts(self) -> Mapping[str, Mapping[str, Any]]:
        """The state of each part by its name, of which "words" is needed."""
        ...


@dataclass(frozen=True)
class Config:
    """BEiT's own settings."""

    teacher: str | None = setting(
        None, "the tokenizer: folder of a run of --method dvae on these images", source="BEiT, section 2.1.2"
    )
    masked: float = setting(
        0.4, "share of the patches that is hidden", low=0.05, high=0.95, source="BEiT, section 2.3"
    )


class BEiT(Method):
    """BEiT: f on images with hidden blocks, and one linear layer from its tokens to words."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens", "teacher"})
    modality: ClassVar[str | None] = "images"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)  # the authors' code

    usage: Tensor

    teachers: ClassVar[str] = (
        "the folder of its tokenizer, which nearfar pretrain DATA --method dvae --out RUN trains"
    )

    def __init__(self, f: Encoder, config: Config, teacher: HasWords) -> None:
        """Add the layer and the learned patch.

        Args:
            f: the encoder.
            config: the method's own settings.
            teacher: the tokenizer.
        """
        super().__init__(f, config)
        self.patch = f.patch
        if "words" not in teacher.parts:
            raise NearfarError(
                f"--teacher {config.teacher} has no words for patches; train a tokenizer first: "
                "nearfar pretrain DATA --method dvae --out RUN, then --teacher RUN."
            )
        state = teacher.parts["words"]
        with fitting(f"vocabulary of {config.teacher}"):
            count, width = state["layer.weight"].shape
            words = Words(width, count)
            words.load_state_dict(dict(state))
        used = float(perplexity(words.usage))
        if used < USED * count:
            raise NearfarError(
                f"the tokenizer {config.teacher} uses {used:.0f} of its {count} words, too few to learn from; train "
                "it longer, or with fewer --words."
            )
        self._tokenizer = (
            teacher.encoder,
            words.requires_grad_(False).eval(),
        )  # no part of what is trained or saved
        self.stride = teacher.encoder.strides[-1]
        self.register_buffer("usage", words.usage.clone())
        self.hide = nn.Parameter(0.5 + 0.02 * torch.randn(3, self.patch, self.patch))
        self.g = nn.Linear(f.dim, count)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the words predicted on held-out images; views need not be near each other."""
        return Expects(
            task="words_explained",
            at_chance="raise --lr, lower --masked, and train longer",
            judged=("linear",),  # vectors of neighbours need not be near, as the papers' figures have it
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Hide blocks of each view, and ask f about the words of the hidden patches."""
        (x,) = batch.views
        shape = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        patches = shape[0] * shape[1]
        count = some(round(patches * self.config.masked), patches, x, "patch")
        at = blocks(batch, *shape, count).to(x.device)  # (N, M)
        hidden = x.new_zeros(len(x), patches).scatter(1, at, 1.0).view(-1, 1, *shape)
        hidden = F.interpolate(hidden, scale_factor=self.patch, mode="nearest")
        tokens = self.f.tokens(x * (1 - hidden) + self.hide.repeat(1, *shape).to(x.dtype) * hidden).patches
        y = self.g(tokens.take_along_dim(at[:, :, None], 1))
        return y, self.words(x, shape).take_along_dim(at, 1)

    @torch.no_grad()
    def words(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """Let the tokenizer name every patch of whole views, at the side that gives it a place for each: (N, T)."""
        encoder, words = self._tokenizer
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.stride != self.patch:
                size = (shape[0] * self.stride, shape[1] * self.stride)
                x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            found: Tensor = words.to(x.device)(encoder.to(x.device).maps(x)[-1]).argmax(2)
        return found

    def loss(self, y: Tensor, words: Tensor) -> Loss:
        """Compare the words of the hidden patches with what was predicted for them: equation 2."""
        kind = torch.promote_types(y.dtype, torch.float32)
        error = F.cross_entropy(y.flatten(0, 1).to(kind), words.flatten())
        known = (
            -self.usage.to(kind)[words].clamp(min=1e-6).log().mean()
        )  # by one who knows how often each is used
        right = (y.argmax(2) == words).to(kind).mean()
        return Loss({"cross_entropy": error}, {"error": error, "known": known, "right": right})

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell the share of hidden words named, and how much less than by their frequencies alone is left to tell."""
        error, known, right = (
            collectives.total(watched[name]) / distributed.world() for name in ("error", "known", "right")
        )
        return {"words_explained": (1 - error / known.clamp(min=1e-12)).clamp(min=0), "words_named": right}


def blocks(batch: Batch, rows: int, columns: int, count: int) -> Tensor:
    """Draw blocks of patches to hide until enough of each image is hidden; the last block is cut to fit.

    Args:
        batch: whose key and rows name the draws.
        rows, columns: patches of an image.
        count: patches that are hidden, from 1 to all.

    Returns:
        (n, count) int64 on the CPU, the hidden patches.

    Source:
        BEiT, algorithm 1, and the authors' code for the aspect.
    """
    least = min(count, max(1, round(rows * columns * SMALLEST)))
    key, n = rng.fold(batch.key, "blocks"), len(batch.rows)
    u = rng.uniform(key, batch.rows, 4 * ROUNDS).reshape(n, ROUNDS, 4).astype(np.float64)
    row, column = np.arange(rows)[:, None], np.arange(columns)
    when = np.full((n, rows, columns), ROUNDS)  # the round in which a patch is hidden
    for k in range(ROUNDS):
        missing = count - (when < ROUNDS).sum((1, 2))
        size = least + (np.maximum(missing, least) - least) * u[:, k, 0]
        aspect = np.exp(math.log(ASPECT) * (2 * u[:, k, 1] - 1))
        height = np.rint(np.sqrt(size * aspect)).clip(1, rows)[:, None, None]
        width = np.rint(np.sqrt(size / aspect)).clip(1, columns)[:, None, None]
        top = np.floor(u[:, k, 2, None, None] * (rows - height + 1))
        left = np.floor(u[:, k, 3, None, None] * (columns - width + 1))
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        when[inside & (when == ROUNDS)] = k
    order = when.reshape(n, -1) + rng.uniform(rng.fold(key, "cut"), batch.rows, rows * columns)
    return torch.from_numpy(order.argsort(1, kind="stable")[:, :count])


_SMALL = {"encoder": "vit_w192_d6"}
BEiT.recipes = recipes(
    cpu={**WEAK, **_SMALL},
    cifar={**MASKED, **_SMALL, "lr": 1.9e-4},
    imagenet={**MASKED, "encoder": "vit_base_patch16_224", "lr": 1.9e-4},
    vit={**MASKED, "lr": 1.9e-4},
)
