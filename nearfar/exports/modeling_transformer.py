"""The network of this folder, for transformers. It needs torch and transformers alone.

from transformers import AutoImageProcessor, AutoModel

prepare = AutoImageProcessor.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
vectors = model(**prepare(pictures, return_tensors="pt")).pooler_output
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class NearfarConfig(PretrainedConfig):
    """The layout of a small vision transformer."""

    model_type = "nearfar_transformer"

    def __init__(self, width: int = 64, depth: int = 2, heads: int = 4, patch: int = 4, **rest: Any) -> None:
        """Keep the layout.

        Args:
            width: of a token.
            depth: number of blocks.
            heads: of the attention.
            patch: pixels of a patch's side.
            rest: what transformers keeps of every model.
        """
        self.width, self.depth, self.heads, self.patch = width, depth, heads, patch
        super().__init__(**rest)


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


class Block(nn.Module):
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


class NearfarModel(PreTrainedModel):
    """Patches, fixed positions, blocks, and the mean of all tokens; there is no class token."""

    config_class = NearfarConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    def __init__(self, config: NearfarConfig) -> None:
        """Build it with random weights."""
        super().__init__(config)
        self.conv_proj = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Encode (n, 3, side, side), as the image processor of this folder prepares them."""
        y = self.conv_proj(pixel_values)
        where = positions(y.shape[2], y.shape[3], y.shape[1]).to(y)
        tokens = self.norm(self.blocks(y.flatten(2).transpose(1, 2) + where))
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens.mean(1))


def positions(height: int, width: int, dim: int) -> Tensor:
    """Give each place of a grid sines and cosines of its column and its row: (height * width, dim)."""
    quarter = dim // 4
    pace = torch.exp(-math.log(10_000.0) * torch.arange(quarter) / quarter)
    down = torch.arange(height)[:, None] * pace
    across = torch.arange(width)[:, None] * pace
    down = torch.cat([down.sin(), down.cos()], 1)[:, None].expand(-1, width, -1)
    across = torch.cat([across.sin(), across.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([across, down], 2).flatten(0, 1)
