"""Small residual networks of our own, for computers without a GPU; each is one line in a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.moments import moments


@dataclass(frozen=True)
class Stage:
    """Some basic blocks of one width; the first may halve the side, by its stride or by max pooling."""

    width: int
    blocks: int = 1
    down: str = ""  # "stride", "pool" or nothing


@dataclass(frozen=True)
class Shape:
    """How a small residual network is structured."""

    stem: tuple[int, int, int]  # width, side and stride of the first convolution
    stages: tuple[Stage, ...]
    neck: int = 0  # width of a last 1x1 convolution, if any: more features at little cost
    kept_scales: bool = False  # whether a finished run keeps the network with the features of every scale

    @property
    def dim(self) -> int:
        """Features of the last map."""
        return self.neck or self.stages[-1].width

    @property
    def every_dim(self) -> int:
        """Means and deviations of the last map at every scale."""
        widths = [self.stem[0]]
        for stage in self.stages:
            widths[len(widths) if stage.down else -1 :] = [stage.width]
        return 2 * sum([*widths[:-1], self.dim])


def _resnet(width: int, blocks: int) -> Shape:
    """Four stages that double their width, as in the paper's ImageNet networks, behind a small stem."""
    stages = (Stage(width << k, blocks, "stride" if k else "") for k in range(4))
    return Shape((width, 3, 2), tuple(stages))


EPSILON = 1e-6  # a deviation of 0 has no gradient

SHAPES = {
    # Eight convolutions, most of the work at 8 and 4 px of a 32 px image, where a CPU is most efficient.
    "resnet8": Shape((32, 4, 2), (Stage(64, down="pool"), Stage(128, down="pool"), Stage(128)), 512, True),
    # A map of one place for 4 x 4 pixels, each of which sees 26 pixels a side: for words of small images.
    "resnet5_w64": Shape((64, 4, 2), (Stage(64), Stage(64, down="pool"))),
    "resnet10_w16": _resnet(16, 1),
    "resnet10_w32": _resnet(32, 1),
    "resnet10_w48": _resnet(48, 1),
    "resnet10_w64": _resnet(64, 1),
    "resnet18_w32": _resnet(32, 2),
}


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; the last batch norm starts at 0, so that a block starts as
    its shortcut (Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1)."""

    def __init__(self, inside: int, outside: int, down: str) -> None:
        super().__init__()
        stride = 2 if down == "stride" else 1
        self.pool: nn.Module = nn.MaxPool2d(2) if down == "pool" else nn.Identity()
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
        """Turn (n, inside, side, side) into (n, outside, side, side), or half the side."""
        x = self.pool(x)
        # In place: on a CPU an addition costs as much memory traffic as a batch norm.
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)).add_(self.shortcut(x)), inplace=True)


class Residual(nn.Module):
    """A residual network without a classifier: a stem, stages of basic blocks, the mean over the plane.

    With `every_scale` the vector goes on: the deviations of the last map, then means and deviations of the
    last map before each halving, which hold colours and textures that a small network's last map has lost.
    These are whitened, since otherwise a few directions with most of the variance decide what is similar.

    Source:
        He et al. 2016, "Deep residual learning", sections 3.3 and 4.2, with the widths of `Shape`.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, shape: Shape, *, every_scale: bool = False) -> None:
        """Build it with random weights.

        Args:
            shape: its layout.
            every_scale: whether a vector holds the features of every scale.
        """
        super().__init__()
        width, side, stride = shape.stem
        self.conv1 = nn.Conv2d(3, width, side, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        for stage in shape.stages:
            for number in range(stage.blocks):
                blocks.append(Block(width, stage.width, "" if number else stage.down))
                width = stage.width
        if shape.neck:
            blocks += [
                nn.Conv2d(width, shape.neck, 1, bias=False),
                nn.BatchNorm2d(shape.neck),
                nn.ReLU(inplace=True),
            ]
        self.blocks, self.every_scale = nn.Sequential(*blocks), every_scale
        if every_scale:  # nothing at first; see `features.whitening`
            self.register_buffer("mean", torch.zeros(shape.every_dim))
            self.register_buffer("whitening", torch.eye(shape.every_dim))
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
        if not self.every_scale:
            y = self.blocks(F.relu(self.bn1(self.conv1(x)), inplace=True))
            return torch.mean(y, (2, 3))
        levels: list[Tensor] = []
        for y in self.steps(x):
            levels[-1 if levels and levels[-1].shape[2] == y.shape[2] else len(levels) :] = [y]
        return self.pooled(levels)

    def pooled(self, levels: Sequence[Tensor]) -> Tensor:
        """Make the vector of feature maps, (n, c, h, w) each, finest first."""
        if not self.every_scale:
            return torch.mean(levels[-1], (2, 3))
        return (
            torch.cat([part for y in levels[::-1] for part in _statistics(y)], 1) - self.mean
        ) @ self.whitening

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Give what each step makes: the stem, each block, the neck's parts; the last is what is pooled.

        Args:
            x: (n, 3, height, width) in [0, 1].

        Yields:
            (n, c, h, w).
        """
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        yield y
        for block in self.blocks:
            y = block(y)
            yield y


def _statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """Take the mean and the deviation of each channel over the plane: (n, c) each."""
    mean, variance = moments(y, (2, 3))
    return mean, (variance + EPSILON).sqrt()
