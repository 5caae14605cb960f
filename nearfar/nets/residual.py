"""Small residual networks of our own, for computers without a GPU; each is one line in a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """How a small residual network is laid out."""

    width: int  # channels of the first stage; each further stage doubles them
    blocks: tuple[int, ...]  # basic blocks a stage; each stage after the first halves the side
    stride: int  # of the first convolution

    @property
    def dim(self) -> int:
        """Features of the last stage."""
        return self.width << (len(self.blocks) - 1)


SHAPES = {
    "resnet10_w16": Shape(16, (1, 1, 1, 1), 2),
    "resnet10_w32": Shape(32, (1, 1, 1, 1), 2),
    "resnet10_w48": Shape(48, (1, 1, 1, 1), 2),
    "resnet10_w64": Shape(64, (1, 1, 1, 1), 2),
    "resnet18_w32": Shape(32, (2, 2, 2, 2), 2),
}


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the last batch norm starts at 0, so that a block starts as
    its shortcut (Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        nn.init.zeros_(self.bn2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Turn (n, inside, side, side) into (n, outside, side / stride, side / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Residual(nn.Module):
    """A residual network without a classifier: 3x3 stem, stages of basic blocks, the mean over the plane.

    Source:
        He et al. 2016, "Deep residual learning", sections 3.3 and 4.2, with the widths of `Shape`.
    """

    def __init__(self, shape: Shape) -> None:
        """Build it with random weights.

        Args:
            shape: its layout.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, shape.width, 3, shape.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.width)
        width, stages = shape.width, []
        for number, blocks in enumerate(shape.blocks):
            for block in range(blocks):
                wider = shape.width * 2**number
                stages.append(Block(width, wider, 2 if number and not block else 1))
                width = wider
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (n, 3, side, side) in [0, 1].

        Returns:
            (n, dim).
        """
        y = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return torch.mean(y, (2, 3))
