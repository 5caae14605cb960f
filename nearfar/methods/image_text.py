"""What methods for images with captions share: two encoders, whose vectors lie in one space, and parts beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import models
from ..data.pair_blocks import CaptionView
from ..losses import key_accuracy, unit
from ..models import Encoder
from ..models.transformer import positions
from .base import Batch, Expects, Method
from .token_names import numbers

HEADS = 4  # of a layer that looks at an image; the width of texts' tokens is a multiple of it
DROPOUT = 0.1  # in such a layer, as in the encoders of texts


class Scale(nn.Module):
    """What similarities are multiplied by, e^t, and, where there is one, the bias b that is added then."""

    def __init__(self, t: float, b: float | None = None) -> None:
        """Set where they start."""
        super().__init__()
        self.t = nn.Parameter(torch.tensor(float(t)))
        self.b = None if b is None else nn.Parameter(torch.tensor(float(b)))


class Places(nn.Module):
    """Turns the last map of an image into tokens that those of a caption can look at, one for each place."""

    def __init__(self, f: Encoder, width: int) -> None:
        """Make them as wide as the caption's."""
        super().__init__()
        self.layer, self.norm = nn.Linear(f.map_widths[-1], width), nn.LayerNorm(width)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps (N, C, rows, columns), of which the last counts -> (N, rows * columns, width)."""
        last = levels[-1]
        y: Tensor = self.norm(self.layer(last.flatten(2).transpose(1, 2)))
        return y + positions(last.shape[2], last.shape[3], y.shape[2]).to(y)


def looking_layers(depth: int, width: int) -> nn.ModuleList:
    """Build layers in which tokens of a caption look at each other, and then at the places of an image.

    Args:
        depth: number of layers.
        width: numbers in a token, a multiple of 4.
    """
    return nn.ModuleList(
        nn.TransformerDecoderLayer(
            width, HEADS, 4 * width, DROPOUT, "gelu", batch_first=True, norm_first=True
        )
        for _ in range(depth)
    )


class ImageText(Method):
    """f for images and an encoder of captions, each with a linear projection into the space they share.

    Where no weight of f is trained, f keeps its own space, and captions are projected into that one: this is
    LiT (Zhai et al. 2022, "LiT: Zero-shot transfer with locked-image text tuning", arXiv:2111.07991).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    keep: ClassVar[tuple[str, ...]] = ("scale",)

    def __init__(self, f: Encoder, config: Any, text: Encoder, scale: Scale) -> None:
        """Add the projections that the encoders do not have yet.

        Args:
            f: of images.
            config: the method's settings, with `width`.
            text: of captions.
            scale: where it starts.
        """
        super().__init__(f, config)
        self.locked = not any(weight.requires_grad for weight in f.parameters())
        own = self.locked or f.projection is not None
        width = f.dim if own else config.width
        self.text, self.scale = text, scale
        self.w_i = None if own else models.projection(f.dim, width)
        there = text.projection is not None and text.dim == width
        self.w_t = None if there else models.projection(text.dim, width)

    @classmethod
    def expects(cls, config: Any) -> Expects:
        """Judge by held-out images: how often an image's own caption is the nearest."""
        return Expects(task="contrastive_accuracy", chance=None, at_chance="raise --lr, and train longer")

    def views(self, views: Any) -> tuple[Any, ...]:
        """Take a crop of each image, and one of its captions."""
        return (views, CaptionView(views))

    def train(self, mode: bool = True) -> ImageText:
        """Leave running statistics of an encoder that is not trained as they are."""
        super().train(mode)
        if self.locked:
            self.f.eval()
        return self

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Turn images and captions into x and y, and add e^t and a number of each caption."""
        images, ids = batch.views
        return self.rows_of(self.f(images), ids)

    def rows_of(self, h: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give the same where images were turned into h already."""
        k = self.text(ids)
        x = unit(h if self.w_i is None else self.w_i(h))  # (N, P)
        y = unit(k if self.w_t is None else self.w_t(k))  # (N, P)
        return x, y, self.scale.t.exp().to(x.dtype).expand(len(x)), numbers(ids)

    @property
    def encoder(self) -> Encoder:
        """The encoder of images, into the space that both share."""
        return self.f if self.w_i is None else self.f.projected(self.w_i)

    @property
    def text_tower(self) -> Encoder:
        """The encoder of captions, into the same space."""
        return self.text if self.w_t is None else self.text.projected(self.w_t)

    def negatives(self, batch: int) -> int:
        """The captions of all other images."""
        return batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often an image's caption was the nearest of different ones, and what multiplies likeness."""
        return {
            "contrastive_accuracy": key_accuracy(watched["x"], watched["y"], watched["c"]),
            "scale": watched["s"].mean(),
        }
