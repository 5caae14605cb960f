"""Small vision transformers of our own, for small images; each is one line in a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import NearfarError


@dataclass(frozen=True)
class TransformerShape:
    """How a small vision transformer is structured."""

    width: int
    depth: int
    heads: int
    patch: int  # px

    @property
    def dim(self) -> int:
        """Features at the end."""
        return self.width


TRANSFORMERS = {
    "vit_w64_d2": TransformerShape(64, 2, 4, 4),
    "vit_w192_d6": TransformerShape(192, 6, 3, 4),
}


class Attention(nn.Module):
    """Attention of every token to every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, width) -> (n, t, width)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class TransformerBlock(nn.Module):
    """Attention and two layers, each after a layer norm and with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, width) -> (n, t, width)."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Transformer(nn.Module):
    """A vision transformer without class token: patches, fixed positions, blocks, and the mean of all tokens.

    Source:
        Dosovitskiy et al. 2021, "An image is worth 16x16 words"; the fixed positions of He et al. 2022,
        "Masked autoencoders are scalable vision learners".
    """

    def __init__(self, shape: TransformerShape) -> None:
        """Build it with random weights.

        Args:
            shape: its layout.
        """
        super().__init__()
        self.shape = shape
        self.conv_proj = nn.Conv2d(3, shape.width, shape.patch, shape.patch)
        self.blocks = nn.Sequential(*(TransformerBlock(shape.width, shape.heads) for _ in range(shape.depth)))
        self.norm = nn.LayerNorm(shape.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.conv_proj.weight.view(shape.width, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (n, 3, side, side) in [0, 1]; the side is a multiple of the patch's.

        Returns:
            (n, dim).
        """
        return self.tokens(x).mean(1)

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Compute the tokens after the last norm.

        Args:
            x: as in `forward`.
            keep: (n, k) int64, the patches that enter the blocks; None for all.

        Returns:
            (n, t, width), or (n, k, width).

        Raises:
            NearfarError: the side is no multiple of the patch's.
        """
        if x.shape[2] % self.shape.patch or x.shape[3] % self.shape.patch:
            raise NearfarError(
                f"images of {x.shape[3]} x {x.shape[2]} px do not divide into patches of {self.shape.patch} "
                f"px; set --image-size to a multiple of {self.shape.patch}."
            )
        y = self.conv_proj(x)
        where = positions(y.shape[2], y.shape[3], self.shape.width).to(y)
        y = y.flatten(2).transpose(1, 2) + where
        if keep is not None:
            y = y.take_along_dim(keep[:, :, None], 1)
        found: Tensor = self.norm(self.blocks(y))
        return found


def positions(height: int, width: int, dim: int) -> Tensor:
    """Give each place of a grid numbers of its own: sines and cosines of its row and of its column.

    Args:
        height, width: places of the grid.
        dim: numbers for each, a multiple of 4.

    Returns:
        (height * width, dim) float32, row by row from the top left.

    Source:
        He et al. 2022, "Masked autoencoders are scalable vision learners", the authors' code.
    """
    quarter = dim // 4
    pace = torch.exp(-math.log(10_000.0) * torch.arange(quarter) / quarter)
    down = torch.arange(height)[:, None] * pace
    across = torch.arange(width)[:, None] * pace
    down = torch.cat([down.sin(), down.cos()], 1)[:, None].expand(-1, width, -1)
    across = torch.cat([across.sin(), across.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([across, down], 2).flatten(0, 1)
