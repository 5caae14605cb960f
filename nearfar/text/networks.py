"""Networks for texts: numbers of tokens in, one vector a text out. They never see padding.

`bag_w512` has one vector for each token and no more: a text is the weighted mean of its tokens' vectors. The
others are transformers, whose tokens look at each other first. Frequent tokens weigh less:

    h = sum over tokens of w(t) y(t), divided by the sum of w(t)

w is learnt. It starts from how frequent a token is by its number, since tokenizers of ours number tokens by
how often they occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import NearfarError, nearest
from ..models import Encoder, seeded
from ..models import weights as files
from ..models.transformer import positions
from .tokenizer import MASK, PAD, VOCABULARY

DROPOUT = 0.1  # Devlin et al. 2019, BERT, appendix A.2, and the only augmentation of SimCSE
SMOOTH = 1e-3  # Arora et al. 2017: a of the weights a / (a + p)
ZIPF = 2.7  # Mandelbrot 1953: the frequency of the word of rank r goes as 1 / (r + 2.7)


@dataclass(frozen=True)
class TextShape:
    """How a network for texts is structured; of depth 0, a bag of tokens."""

    width: int
    depth: int
    heads: int


NETWORKS = {
    "bag_w512": TextShape(512, 0, 1),
    "text_w128_d2": TextShape(128, 2, 4),
    "text_w256_d4": TextShape(256, 4, 4),
}


class TextBlockLayer(nn.Module):
    """Attention and two layers, each after a layer norm, with a shortcut; it starts as the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(DROPOUT)
        for layer in (self.qkv, self.widen):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.out, self.narrow):
            nn.init.zeros_(layer.weight)
        for layer in (self.qkv, self.out, self.widen, self.narrow):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(n, t, width) and (n, t) bool -> (n, t, width)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        z: Tensor = x + self.dropout(self.narrow(F.gelu(self.widen(self.norm2(x)))))
        return z


class TextNetwork(nn.Module):
    """A bag of tokens, or a transformer over them, with a weighted mean at the end.

    Source:
        Vaswani et al. 2017, "Attention is all you need"; the weights: Arora, Liang and Ma 2017, "A simple but
        tough-to-beat baseline for sentence embeddings", equation 3, here learnt.
    """

    def __init__(self, shape: TextShape) -> None:
        """Build it with random weights.

        Args:
            shape: its layout.
        """
        super().__init__()
        self.shape = shape
        self.table = nn.Embedding(VOCABULARY, shape.width, padding_idx=PAD)
        self.weight = nn.Parameter(_rarity())
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(TextBlockLayer(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width) if shape.depth else nn.Identity()

    def tokens(self, ids: Tensor) -> Tensor:
        """Compute the tokens after the last layer.

        Args:
            ids: (n, t) int64, `PAD` after the end of a text.

        Returns:
            (n, t, width).
        """
        x = self.table(ids)
        if self.shape.depth:
            x = x + 0.1 * positions(1, ids.shape[1], self.shape.width).to(x)
        x, mask = self.dropout(x), ids != PAD
        for block in self.blocks:
            x = block(x, mask)
        y: Tensor = self.norm(x)
        return y

    def forward(self, ids: Tensor) -> Tensor:
        """Encode texts.

        Args:
            ids: (n, t) int64.

        Returns:
            (n, width).
        """
        w = (self.weight[ids] * (ids != PAD))[:, :, None]
        h: Tensor = (w * self.tokens(ids)).sum(1) / w.sum(1).clamp(min=1e-6)
        return h


def _rarity() -> Tensor:
    """Weigh each token by how rare it is expected to be, (VOCABULARY,) from 0 to 1."""
    rank = torch.arange(VOCABULARY, dtype=torch.float64) - MASK
    frequency = 1 / (rank.clamp(min=1) + ZIPF)
    frequency = frequency / frequency.sum()
    return (SMOOTH / (SMOOTH + frequency)).float()


def encoder(name: str, *, size: int | None = None, weights: str | None = None, seed: int = 0) -> Encoder:
    """Build an encoder of texts on the CPU.

    Args:
        name: one of `NETWORKS`.
        size: tokens of a text, at most.
        weights: None for random ones, or a .safetensors file of such an encoder.
        seed: names the random weights.

    Returns:
        The encoder, in training mode.

    Raises:
        NearfarError: there is no such network, or the weights do not fit.
    """
    check_name(name)
    shape = NETWORKS[name]
    with seeded(seed, "encoder", name):
        net = TextNetwork(shape)
    if weights is not None:
        files.read(net, name, "standard", Path(weights))
    return Encoder(net, shape.width, name, "standard", size, untrained=weights is None)


def check_name(name: str) -> None:
    """Refuse a name that no network of ours has.

    Raises:
        NearfarError: there is no such network.
    """
    if name not in NETWORKS:
        raise NearfarError(f"there is no encoder {name!r} of texts; {nearest(name, NETWORKS)}")


def parts_of(net: Any) -> TextNetwork:
    """Give the network of an encoder of texts, for methods that look at its tokens.

    Raises:
        NearfarError: it is of another kind.
    """
    if not isinstance(net, TextNetwork):
        raise NearfarError("this method needs an encoder of texts; choose one with --encoder text_w256_d4.")
    return net


def table_of(net: Any) -> nn.Embedding:
    """Give the table of tokens of an encoder of texts, a known one too, for methods that use its tokens.

    Raises:
        NearfarError: it has none.
    """
    table = getattr(net, "table", None)
    if not isinstance(table, nn.Embedding):
        raise NearfarError(
            "this method needs an encoder of texts with a table of tokens; choose text_w256_d4, or a BERT."
        )
    return table
