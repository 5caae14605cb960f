"""Measures what an encoder is invariant to: how far vectors move as colour, place, size or turn change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.knn import unit
from ..images.kernels.reference import hue

Encode = Callable[[Tensor], Tensor]


def turn_hue(x: Tensor, share: float) -> Tensor:
    """Turn the hue of images (n, 3, side, side) by a share of the colour wheel."""
    return torch.stack([hue(one, share) for one in x])


def moved(x: Tensor, share: float) -> Tensor:
    """Move images down and to the right by a share of their side; what is missing is mirrored."""
    return _placed(x, torch.eye(2), torch.full((2,), -2 * share))


def enlarged(x: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of images by a factor."""
    return _placed(x, torch.eye(2) / factor, torch.zeros(2))


def turned(x: Tensor, degrees: float) -> Tensor:
    """Turn images about their middle; the corners are mirrored."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _placed(x, torch.tensor([[c, -s], [s, c]]), torch.zeros(2))


def blurred(x: Tensor, share: float) -> Tensor:
    """Blur images by a Gaussian whose deviation is a share of their side.

    Args:
        x: (n, 3, side, side).
        share: 0 changes nothing.

    Returns:
        (n, 3, side, side).
    """
    sigma = share * x.shape[-1]
    if sigma <= 0:
        return x
    reach = min(max(1, math.ceil(3 * sigma)), x.shape[-1] - 1)
    steps = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    taps = (-0.5 * (steps / sigma) ** 2).softmax(0)
    planes = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    down = F.conv2d(planes, taps.view(1, 1, -1, 1))
    return F.conv2d(down, taps.view(1, 1, 1, -1)).view_as(x)


def _placed(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Fetch each pixel from where a matrix (2, 2) and a shift (2,) say, in units of half a side."""
    theta = torch.cat([matrix, shift[:, None]], 1).to(x).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "bilinear", padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class Change:
    """A way to change images.

    Attributes:
        apply: (n, 3, side, side) and a strength to changed images.
        unit: what a strength counts.
        strengths: the first of them changes nothing.
    """

    apply: Callable[[Tensor, float], Tensor]
    unit: str
    strengths: tuple[float, ...]


CHANGES: Mapping[str, Change] = {
    "colour": Change(turn_hue, "turn of the hue, 0.5 is half a circle", (0, 0.05, 0.1, 0.2, 0.35, 0.5)),
    "place": Change(moved, "move, as a share of the side", (0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2)),
    "size": Change(enlarged, "times enlarged", (1, 1.25, 1.5, 2, 2.5, 3)),
    "turn": Change(turned, "degrees turned", (0, 15, 30, 60, 90, 180)),
    "blur": Change(blurred, "blur, as a share of the side", (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8)),
}


@dataclass(frozen=True)
class Curve:
    """How similar changed images stay to themselves.

    Attributes:
        change: its name in `CHANGES`.
        strengths: of the change.
        kept: at each strength, the mean cosine of an image's vector and its changed image's, both less the
            mean vector of the images: 1 is no difference, 0 as much as that to another image on average.
        found: at each strength, the share of changed images whose most similar image is their own.
    """

    change: str
    strengths: tuple[float, ...]
    kept: tuple[float, ...]
    found: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        unit = CHANGES[self.change].unit
        return {
            "change": self.change,
            "unit": unit,
            "strengths": list(self.strengths),
            "kept": list(self.kept),
            "found": list(self.found),
        }


@torch.no_grad()
def curves(encode: Encode, x: Tensor) -> tuple[Curve, ...]:
    """Measure an encoder on images that change more and more.

    Args:
        encode: (n, 3, side, side) in [0, 1] to (n, d).
        x: (n, 3, side, side) images, at least 2.

    Returns:
        One curve for each of `CHANGES`.
    """
    plain = encode(x)
    centre = plain.mean(0)
    own, truth = unit(plain - centre), torch.arange(len(x), device=plain.device)
    made = []
    for name, change in CHANGES.items():
        kept, found = [], []
        for strength in change.strengths:
            cosine = unit(encode(change.apply(x, strength).clamp(0, 1)) - centre) @ own.T
            kept.append(float(cosine.diagonal().mean()))
            found.append(float((cosine.argmax(1) == truth).float().mean()))
        made.append(Curve(name, change.strengths, tuple(kept), tuple(found)))
    return tuple(made)
