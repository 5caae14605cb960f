"""The network of this folder, for transformers. It needs torch and transformers alone.

from transformers import AutoImageProcessor, AutoModel

prepare = AutoImageProcessor.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
vectors = model(**prepare(pictures, return_tensors="pt")).pooler_output
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class NearfarConfig(PretrainedConfig):
    """The layout of a small residual network."""

    model_type = "nearfar_residual"

    def __init__(
        self,
        stem: Sequence[int] = (32, 4, 2),
        blocks: Sequence[tuple[int, str]] = (),
        neck: int = 0,
        every_scale: bool = False,
        **rest: Any,
    ) -> None:
        """Keep the layout.

        Args:
            stem: width, side and stride of the first convolution.
            blocks: the width of each, and how it halves the side: "stride", "pool" or "".
            neck: width of a last 1x1 convolution, if any.
            every_scale: whether a vector holds means and deviations of every scale.
            rest: what transformers keeps of every model.
        """
        self.stem, self.blocks, self.neck, self.every_scale = list(stem), list(blocks), neck, every_scale
        super().__init__(**rest)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inside: int, outside: int, down: str) -> None:
        super().__init__()
        stride = 2 if down == "stride" else 1
        self.pool = nn.MaxPool2d(2) if down == "pool" else nn.Identity()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inside != outside:
            shorter = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shorter, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (n, inside, side, side) into (n, outside, side, side), or half the side."""
        x = self.pool(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class NearfarModel(PreTrainedModel):
    """A stem, residual blocks, and the mean over the plane; or means and deviations of every scale."""

    config_class = NearfarConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    def __init__(self, config: NearfarConfig) -> None:
        """Build it with random weights."""
        super().__init__(config)
        width, side, stride = config.stem
        self.conv1 = nn.Conv2d(3, width, side, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        parts: list[nn.Module] = []
        for outside, down in config.blocks:
            parts.append(Block(width, outside, down))
            width = outside
        if config.neck:
            parts += [nn.Conv2d(width, config.neck, 1, bias=False), nn.BatchNorm2d(config.neck), nn.ReLU()]
        self.blocks = nn.Sequential(*parts)
        if config.every_scale:
            self.register_buffer("mean", torch.zeros(config.hidden_size))
            self.register_buffer("whitening", torch.eye(config.hidden_size))
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Encode (n, 3, side, side), as the image processor of this folder prepares them."""
        y = F.relu(self.bn1(self.conv1(pixel_values)))
        scales = [y]
        for part in self.blocks:
            y = part(y)
            if y.shape[2] != scales[-1].shape[2]:
                scales.append(y)
            scales[-1] = y
        if not self.config.every_scale:
            return BaseModelOutputWithPooling(last_hidden_state=y, pooler_output=y.mean((2, 3)))
        vector = []
        for y in reversed(scales):
            mean = y.mean((2, 3), keepdim=True)
            variance = (y - mean).square().mean((2, 3))  # in two passes: quicker than torch.var_mean
            vector += [mean.flatten(1), (variance + 1e-6).sqrt()]
        whitened = (torch.cat(vector, 1) - self.mean) @ self.whitening
        return BaseModelOutputWithPooling(last_hidden_state=scales[-1], pooler_output=whitened)
