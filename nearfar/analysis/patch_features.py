"""Features of every patch of a picture, from several feature maps of an encoder.

A picture is not cropped to a square: it keeps its shape, and a large one is encoded in windows whose feature
maps are put together, so that all that follows sees one grid of patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import NearfarError
from ..models import Encoder

LEAST, STAGES = 8, 2  # places a side of the coarsest map used by default, and maps used
WINDOW = 768  # side in pixels of the largest picture, or window of one, that is encoded at once


@dataclass(frozen=True)
class PatchFeatures:
    """Computes the features of patches; make one with `patch_features`.

    Attributes:
        encoder: in eval mode.
        strides: of the feature maps used, finest first, in pixels.
        levels: their places in `encoder.maps`.
        window: side of the largest square that is encoded at once, in pixels.
        square: whether the encoder takes nothing but squares of that side.
        offsets: by how many pixels each map is moved down and right against the picture; none if empty.
    """

    encoder: Encoder
    strides: tuple[int, ...]
    levels: tuple[int, ...]
    window: int
    square: bool
    offsets: tuple[float, ...] = ()

    @property
    def multiple(self) -> int:
        """Pixels of which both sides of a picture are a multiple."""
        return math.lcm(*self.strides)

    def shape_for(self, height: int, width: int, side: int) -> tuple[int, int]:
        """Choose the shape to which a picture is resized.

        Args:
            height, width: of the picture, in pixels.
            side: wanted short side.

        Returns:
            Height and width, the picture's proportions rounded to multiples of `multiple`.
        """
        scale, step = side / min(height, width), self.multiple
        tall, wide = (max(step, step * round(scale * length / step)) for length in (height, width))
        return tall, wide

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Compute the features of all patches of some pictures; see `compute`."""
        return self.compute(x)

    @torch.inference_mode()
    def maps(self, x: Tensor) -> list[Tensor]:
        """Compute the features of all patches of some pictures, map by map; see `compute_maps`."""
        return self.compute_maps(x)

    def compute(self, x: Tensor) -> Tensor:
        """Compute the features of all patches of some pictures, in a way that can be traced.

        Args:
            x: (n, 3, height, width) floats in [0, 1]; both sides multiples of `multiple`.

        Returns:
            (n, c, height / s, width / s) float32, s the finest stride: of each map the mean over 3 x 3
            places, resized to the finest, one above the other.

        Source:
            Roth et al. 2022, "Towards total recall in industrial anomaly detection" (PatchCore), section 3.1.
        """
        return self._whole(x, joined=True)[0]

    def compute_maps(self, x: Tensor) -> list[Tensor]:
        """Compute the features of all patches of some pictures, map by map, in a way that can be traced.

        Args:
            x: as for `compute`.

        Returns:
            Of each map (n, c, height / s, width / s) float32, s its own stride, the finest first: the mean
            over 3 x 3 places.
        """
        return self._whole(x, joined=False)

    def _whole(self, x: Tensor, joined: bool) -> list[Tensor]:
        """Encode pictures, large ones in windows."""
        height, width = x.shape[2:]
        if self.square:
            tall = wide = self.window
        else:
            tall, wide = min(self.window, height), min(self.window, width)
        if (tall, wide) == (height, width):
            return self._encode(x, joined)
        # A picture smaller than the window that the encoder needs is continued by its mirror image.
        padded = _mirrored(x, max(tall, height), max(wide, width))
        strides = self.strides[:1] if joined else self.strides
        grids = [(padded.shape[2] // stride, padded.shape[3] // stride) for stride in strides]
        totals: list[Tensor] = []
        counts = [torch.zeros(grid, device=x.device) for grid in grids]
        for top in _starts(padded.shape[2], tall, self.multiple):
            for left in _starts(padded.shape[3], wide, self.multiple):
                parts = self._encode(padded[:, :, top : top + tall, left : left + wide], joined)
                if not totals:
                    totals = [
                        one.new_zeros(*one.shape[:2], *grid) for one, grid in zip(parts, grids, strict=True)
                    ]
                for part, total, count, stride in zip(parts, totals, counts, strides, strict=True):
                    rows = slice(top // stride, top // stride + part.shape[2])
                    columns = slice(left // stride, left // stride + part.shape[3])
                    total[:, :, rows, columns] += part
                    count[rows, columns] += 1
        return [
            (total / count)[:, :, : height // stride, : width // stride]
            for total, count, stride in zip(totals, counts, strides, strict=True)
        ]

    def _encode(self, x: Tensor, joined: bool) -> list[Tensor]:
        """Encode pictures of one window at most."""
        maps = self.encoder.maps(x)
        chosen = [maps[level].float() for level in self.levels]
        means = [F.avg_pool2d(one, 3, 1, 1, count_include_pad=False) for one in chosen]
        parts = []
        for mean, offset, stride in self._placed(means):
            grid = self.strides[0] if joined else stride
            parts.append(_aligned(mean, (x.shape[2] // grid, x.shape[3] // grid), offset / stride))
        return [torch.cat(parts, dim=1)] if joined else parts

    def _placed(self, parts: list[Tensor]) -> list[tuple[Tensor, float, int]]:
        """Join maps with their offsets and strides."""
        return list(zip(parts, self.offsets or (0.0,) * len(parts), self.strides, strict=True))


def _aligned(x: Tensor, shape: tuple[int, int], offset: float) -> Tensor:
    """Resize a map to a grid of patches, bilinear, and move it back by its offset in places of its own."""
    axes = []
    for length, places in zip(x.shape[2:], shape, strict=True):
        middle = (torch.arange(places, device=x.device) + 0.5) * length / places  # in places of the map
        axes.append(2 * (middle + offset) / length - 1)
    down, across = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([across, down], dim=-1).expand(len(x), -1, -1, -1).to(x.dtype)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _starts(length: int, window: int, step: int) -> list[int]:
    """Spread windows evenly over a side, each beginning at a multiple of `step`, a quarter overlapping."""
    count = 1 + math.ceil((length - window) / max(step, 0.75 * window)) if length > window else 1
    last = length - window
    return sorted({step * round(last * at / max(1, count - 1) / step) for at in range(count)})


def _mirrored(x: Tensor, height: int, width: int) -> Tensor:
    """Continue pictures at the bottom and at the right by their mirror image, as often as is needed."""
    for dim, length in ((2, height), (3, width)):
        while x.shape[dim] < length:
            more = min(length - x.shape[dim], x.shape[dim])
            x = torch.cat([x, x.narrow(dim, x.shape[dim] - more, more).flip(dim)], dim)
    return x


def patch_features(
    encoder: Encoder, size: int, strides: Sequence[int] | None = None, coarser: bool = False
) -> PatchFeatures:
    """Choose the feature maps of an encoder that show parts best: its middle ones.

    Args:
        encoder: a residual or other convolutional network, or a vision transformer; set to eval mode.
        size: side of the pictures that it was made for, in pixels.
        strides: of the maps wanted, some of `encoder.strides`; by default the coarsest two that have 8 places
            a side at `size`, or as many as there are.
        coarser: by default also the next coarser map, where there is one.

    Returns:
        What computes the features.

    Raises:
        NearfarError: the encoder has no feature maps, or none of such a stride.
    """
    encoder.eval()
    own = encoder.strides
    if strides:
        missing = [stride for stride in strides if stride not in own]
        if missing:
            raise NearfarError(
                f"encoder {encoder.name!r} has no feature map of stride {missing[0]}; give --strides some of "
                f"{' '.join(map(str, own))}."
            )
        chosen = tuple(sorted({*strides}))
    else:
        chosen = tuple(stride for stride in own if size / stride >= LEAST)[-STAGES:] or own[:1]
        if coarser:
            chosen += own[own.index(chosen[-1]) + 1 :][:1]
    levels = tuple(own.index(stride) for stride in chosen)
    multiple = math.lcm(*chosen)
    if not _takes(encoder, 2 * size, 2 * size + multiple, len(own)):
        return PatchFeatures(encoder, chosen, levels, size // multiple * multiple or size, square=True)
    offsets = _offsets(encoder, levels, chosen)
    return PatchFeatures(encoder, chosen, levels, WINDOW // multiple * multiple, False, offsets)


@torch.inference_mode()
def _offsets(encoder: Encoder, levels: Sequence[int], strides: Sequence[int]) -> tuple[float, ...]:
    """Measure where a spot appears on the maps: padding at strided convolutions moves what they show."""
    most = max(strides)
    side, step = 14 * most, max(1, most // 4)
    low = side // 2 // most * most
    places = list(range(low, low + most, step))
    spot = max(1, min(strides) // 2)
    device = next(encoder.parameters()).device
    x = torch.full((len(places) + 1, 3, side, side), 0.5, device=device)  # the last one has no spot
    for row, at in enumerate(places):
        x[row, :, at : at + spot, at : at + spot] = 1.0
    maps, true = encoder.maps(x), torch.tensor(places, device=device)[:, None] + spot / 2
    found = []
    for level, stride in zip(levels, strides, strict=True):
        energy = (maps[level][:-1] - maps[level][-1:]).float().square().sum(1)
        middle = (torch.arange(energy.shape[1], device=device) + 0.5) * side / energy.shape[1]
        away = middle - true
        weight = (energy.sum(1) + energy.sum(2)) * (away.abs() < 3 * stride)
        moved = float(((weight * away).sum() / weight.sum().clamp_min(1e-30)).cpu())
        found.append(moved if math.isfinite(moved) else 0.0)
    return tuple(found)


def _takes(encoder: Encoder, height: int, width: int, levels: int) -> bool:
    """Try whether an encoder takes pictures of another size than its own, which are not square."""
    device = next(encoder.parameters()).device
    try:
        with torch.inference_mode():
            return len(encoder.maps(torch.zeros(1, 3, height, width, device=device))) == levels
    except Exception:  # each library refuses in its own way
        return False
