"""The network of this folder, for transformers. It needs torch and transformers alone.

from transformers import AutoImageProcessor, AutoModel

prepare = AutoImageProcessor.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
vectors = model(**prepare(pictures, return_tensors="pt")).pooler_output
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class NearfarConfig(PretrainedConfig):
    """The layout of a ResNet whose first convolution is 3x3 with stride 1, without pooling after it."""

    model_type = "nearfar_resnet"

    def __init__(
        self,
        layers: Sequence[int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        **rest: Any,
    ) -> None:
        """Keep the layout.

        Args:
            layers: blocks of each stage.
            bottleneck: whether a block is a 3x3 convolution between two 1x1 ones; else it is two 3x3 ones.
            groups: of the 3x3 convolution of a bottleneck.
            width_per_group: of that convolution, in the first stage.
            rest: what transformers keeps of every model.
        """
        self.layers, self.bottleneck, self.groups = list(layers), bottleneck, groups
        self.width_per_group = width_per_group
        super().__init__(**rest)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; or a 1x1, a 3x3 and a 1x1 one."""

    def __init__(self, inside: int, width: int, stride: int, config: NearfarConfig) -> None:
        super().__init__()
        outside, inner = width, width
        if config.bottleneck:
            outside, inner = 4 * width, width * config.width_per_group // 64 * config.groups
            kinds = [(1, 1, 1), (3, stride, config.groups), (1, 1, 1)]
        else:
            kinds = [(3, stride, 1), (3, 1, 1)]
        self.steps, before = len(kinds), inside
        for at, (side, step, groups) in enumerate(kinds, start=1):
            after = outside if at == len(kinds) else inner
            conv = nn.Conv2d(before, after, side, step, side // 2, groups=groups, bias=False)
            self.add_module(f"conv{at}", conv)
            self.add_module(f"bn{at}", nn.BatchNorm2d(after))
            before = after
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inside != outside:
            shorter = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shorter, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (n, inside, side, side) into (n, outside, side, side), or half the side."""
        y = x
        for at in range(1, self.steps + 1):
            y = self.get_submodule(f"bn{at}")(self.get_submodule(f"conv{at}")(y))
            y = F.relu(y) if at < self.steps else y
        return F.relu(y + self.downsample(x))


class NearfarModel(PreTrainedModel):
    """A stem, four stages of blocks, and the mean over the plane; there is no classifier."""

    config_class = NearfarConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    def __init__(self, config: NearfarConfig) -> None:
        """Build it with random weights."""
        super().__init__(config)
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inside = 64
        for stage, count in enumerate(config.layers):
            blocks = []
            for at in range(count):
                stride = 2 if stage and not at else 1
                blocks.append(Block(inside, 64 << stage, stride, config))
                inside = (64 << stage) * (4 if config.bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Encode (n, 3, side, side), as the image processor of this folder prepares them."""
        y = F.relu(self.bn1(self.conv1(pixel_values)))
        for stage in range(len(self.config.layers)):
            y = self.get_submodule(f"layer{stage + 1}")(y)
        return BaseModelOutputWithPooling(last_hidden_state=y, pooler_output=y.mean((2, 3)))
