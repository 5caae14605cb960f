"""Heads that classify every pixel from an encoder's feature maps: U-Net, FPN, and a linear layer.

Shapes: n images, m maps finest first, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _resized(x: Tensor, like: Sequence[int]) -> Tensor:
    """Resize maps to (height, width), bilinear."""
    if x.shape[2:] == torch.Size(like):
        return x
    return F.interpolate(x, size=tuple(like), mode="bilinear", align_corners=False)


def _conv(inside: int, outside: int, side: int = 3) -> nn.Sequential:
    """A convolution, its batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, side, padding=side // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """From the coarsest map up: resize, join the next finer map, convolve; at the end join the pixels.

    Source:
        Ronneberger et al. 2015, "U-Net", section 2, with bilinear resizing.
    """

    def __init__(self, widths: Sequence[int], classes: int, pixels: int, width: int = 16) -> None:
        """Build it with random weights.

        Args:
            widths: channels of the maps, finest first.
            classes: C.
            pixels: channels of what is known of every pixel.
            width: channels at the images' own size; doubled with each map, up to eight times.
        """
        super().__init__()
        kept = [min(width << (at + 1), 8 * width) for at in range(len(widths))]
        self.top = _conv(widths[-1], kept[-1], 1)
        self.skips = nn.ModuleList(_conv(c, k, 1) for c, k in zip(widths[:-1], kept[:-1], strict=True))
        self.steps = nn.ModuleList(
            _conv(coarse + fine, fine) for fine, coarse in zip(kept[:-1], kept[1:], strict=True)
        )
        self.last = nn.Sequential(_conv(kept[0] + pixels, width), _conv(width, width))
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor], pixels: Tensor) -> Tensor:
        """Classify every pixel.

        Args:
            maps: m, (n, c, h, w) each.
            pixels: (n, pixels, height, width).

        Returns:
            (n, C, height, width) logits.
        """
        y = self.top(maps[-1])
        for at in range(len(self.steps) - 1, -1, -1):
            fine = maps[at]
            y = self.steps[at](torch.cat([_resized(y, fine.shape[2:]), self.skips[at](fine)], 1))
        y = self.last(torch.cat([_resized(y, pixels.shape[2:]), pixels], 1))
        return self.classes(y)


class FPN(nn.Module):
    """Maps of one width, each joined with the coarser ones; their mean is joined with the pixels.

    Source:
        Kirillov et al. 2019, "Panoptic feature pyramid networks", section 3.1, with one convolution a map.
    """

    def __init__(self, widths: Sequence[int], classes: int, pixels: int, width: int = 16) -> None:
        """Build it with random weights; the arguments are those of `UNet`."""
        super().__init__()
        inner = 4 * width
        self.laterals = nn.ModuleList(nn.Conv2d(c, inner, 1) for c in widths)
        self.smooth = nn.ModuleList(_conv(inner, 2 * width) for _ in widths)
        self.last = nn.Sequential(_conv(2 * width + pixels, width), _conv(width, width))
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor], pixels: Tensor) -> Tensor:
        """Classify every pixel; arguments and result are those of `UNet`."""
        y: Tensor | None = None
        parts: list[Tensor] = []
        for x, lateral, smooth in zip(
            reversed(maps), reversed(self.laterals), reversed(self.smooth), strict=True
        ):
            own = lateral(x)
            y = own if y is None else own + _resized(y, own.shape[2:])
            parts.append(_resized(smooth(y), maps[0].shape[2:]))
        mean = torch.stack(parts).mean(0)
        y = self.last(torch.cat([_resized(mean, pixels.shape[2:]), pixels], 1))
        return self.classes(y)


class Linear(nn.Module):
    """A linear layer on all maps, resized to the finest: what the maps themselves tell of a pixel.

    The pixels are not joined.
    """

    def __init__(self, widths: Sequence[int], classes: int, pixels: int, width: int = 16) -> None:
        """Build it; the arguments are those of `UNet`."""
        super().__init__()
        self.norm = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in widths)
        self.classes = nn.Conv2d(sum(widths), classes, 1)

    def forward(self, maps: Sequence[Tensor], pixels: Tensor) -> Tensor:
        """Classify every pixel; arguments and result are those of `UNet`."""
        scaled = [norm(x) for norm, x in zip(self.norm, maps, strict=True)]
        y = self.classes(torch.cat([_resized(x, maps[0].shape[2:]) for x in scaled], 1))
        return _resized(y, pixels.shape[2:])


HEADS: dict[str, type[UNet] | type[FPN] | type[Linear]] = {"unet": UNet, "fpn": FPN, "linear": Linear}
