"""Known encoders of images that share their space with words: towers of CLIP and SigLIP, as in transformers.

The names of their parts are those of transformers' files. Towers for texts are in `text/two_towers.py`.

Source:
    Radford et al. 2021, "Learning transferable visual models from natural language supervision"; Zhai et al.
    2023, "Sigmoid loss for language image pre-training".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "clip_image"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class TowerAttention(nn.Module):
    """Attention of several heads, among all tokens or to those before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(width, width))

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(n, t, width) -> (n, t, width)."""
        part = self.get_submodule
        q, k, v = (
            part(name)(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        z: Tensor = part("out_proj")(y.transpose(1, 2).flatten(2))
        return z


class Mlp(nn.Module):
    """Two layers."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        y: Tensor = self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))
        return y


class Layer(nn.Module):
    """Attention and two layers, each after a layer norm, with a shortcut."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.self_attn = TowerAttention(width, config["num_attention_heads"])
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, config["intermediate_size"], config["hidden_act"])

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(n, t, width) -> (n, t, width)."""
        x = x + self.self_attn(self.layer_norm1(x), causal)
        y: Tensor = x + self.mlp(self.layer_norm2(x))
        return y


class Layers(nn.Module):
    """A stack of layers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """(n, t, width) -> (n, t, width)."""
        for layer in self.layers:
            x = layer(x, causal)
        return x


class PatchEmbedding(nn.Module):
    """Patches as tokens, with their places; CLIP's begin with a class token."""

    class_embedding: Tensor | None

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, patch, token = config["hidden_size"], config["patch_size"], config["class_token"]
        count = (config["image_size"] // patch) ** 2 + token
        self.register_parameter("class_embedding", nn.Parameter(torch.randn(width)) if token else None)
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=not token)
        self.position_embedding = nn.Embedding(count, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> (n, t, width)."""
        y = self.patch_embedding(x).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            y = torch.cat([self.class_embedding.expand(len(y), 1, -1), y], 1)
        z: Tensor = y + self.position_embedding.weight
        return z


class AttentionPooling(nn.Module):
    """SigLIP's pooling: one learnt token asks all others, and two layers follow."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.probe = nn.Parameter(torch.randn(1, 1, width))
        self.attention = nn.MultiheadAttention(width, config["num_attention_heads"], batch_first=True)
        self.layernorm = nn.LayerNorm(width, config["layer_norm_eps"])
        self.mlp = Mlp(width, config["intermediate_size"], config["hidden_act"])

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, width) -> (n, width)."""
        y = self.attention(self.probe.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        z: Tensor = (y + self.mlp(self.layernorm(y)))[:, 0]
        return z


class ImageTower(nn.Module):
    """A vision transformer, with the class token or SigLIP's pooling at its end."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build it with random weights.

        Args:
            config: by the names of transformers' vision_config, whole; and "class_token", whether there is
                one, as CLIP has it; SigLIP pools by attention.
        """
        super().__init__()
        width, eps, token = config["hidden_size"], config["layer_norm_eps"], config["class_token"]
        self.embeddings = PatchEmbedding(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps) if token else None  # transformers' own spelling
        self.encoder = Layers(config)
        self.post_layernorm = nn.LayerNorm(width, eps)
        self.head = None if token else AttentionPooling(config)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side), normalised -> (n, width)."""
        y = self.embeddings(x)
        if self.pre_layrnorm is not None:
            y = self.pre_layrnorm(y)
        y = self.encoder(y)
        z: Tensor = self.post_layernorm(y[:, 0]) if self.head is None else self.head(self.post_layernorm(y))
        return z
