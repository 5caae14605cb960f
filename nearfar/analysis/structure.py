"""Finds how two pictures may lie upon each other: shifted, cropped or mirrored, from their coarse structure.

A picture is reduced to 16 x 16 pixels of brightness, less its own blur: its structure. The whole of one is
correlated with the whole and with the middle of the other, at a few shifts, mirrored or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from ..core import progress
from ..images.decode import Pixels
from .cells import near_rows

SIDE = 16  # pixels a side at which structure is compared
SHIFT = 2  # pixels, of these, that one may be shifted against the other
ZOOMS = (1.0, 0.9, 0.8)  # parts of a side; what lies between two is within their shifts
FITS = 3  # of the best ways to lay one picture upon the other that are tried
ROUNDING = 1 / 512  # structure below the rounding of pixels counts as none
READ = 256  # pictures in memory at a time

_LARGE = 80  # pixels a side from which the zooms are cut: each keeps whole pixels
_COARSE = 8  # pixels a side at which the most similar of all pictures are looked for
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0))  # zooms of the first and of the second

Rows = npt.NDArray[np.int64]
Read = Callable[[Rows], Sequence[Pixels | None]]


def squeezed(pixels: Pixels, side: int) -> torch.Tensor:
    """Resize a whole picture to a square.

    Args:
        pixels: (H, W, 3) uint8.
        side: of the square, in pixels.

    Returns:
        (3, side, side) float32 in [0, 1].
    """
    small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)


def structure(read: Read, count: int) -> torch.Tensor:
    """Reduce pictures to their structure, whole and without their borders; a missing one has none.

    Args:
        read: gives the pictures of some rows.
        count: n pictures.

    Returns:
        (n, len(ZOOMS), SIDE, SIDE) float16, 1.5 kB a picture.
    """
    parts = [torch.empty(0, len(ZOOMS), SIDE, SIDE, dtype=torch.float16)]
    for low in range(0, count, READ):
        progress.stage("reading pictures", low, count)
        found = read(np.arange(low, min(low + READ, count)))
        grey = torch.stack(
            [torch.zeros(_LARGE, _LARGE) if one is None else squeezed(one, _LARGE).mean(0) for one in found]
        )[:, None]
        zoomed = []
        for zoom in ZOOMS:
            cut = round(_LARGE * (1 - zoom) / 2)
            inner = grey[:, :, cut : _LARGE - cut, cut : _LARGE - cut]
            small = functional.interpolate(inner, size=(SIDE, SIDE), mode="bilinear", antialias=True)
            zoomed.append(_less_blur(small))
        parts.append(torch.cat(zoomed, 1).half())
    return torch.cat(parts)


def _less_blur(x: torch.Tensor) -> torch.Tensor:
    """Take a picture's own blur off, and soften the rest by (1, 2, 1) / 4: half a shift matters less then."""
    fine = x - functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    fine = functional.pad(fine, (1, 1, 1, 1), mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(fine, 2, stride=1), 2, stride=1)


def similar_structure(first: torch.Tensor, second: torch.Tensor | None, k: int) -> Rows:
    """Find for each picture those of the most similar structure, whole or cropped, mirrored or not.

    Args:
        first: (n, z, SIDE, SIDE), from `structure`.
        second: (m, z, SIDE, SIDE) to look among; None for the others of the first.
        k: how many for each way to lie upon each other, at most m, or n - 1.

    Returns:
        (n, c) rows; -1 for none.
    """
    base, own = first if second is None else second, second is None
    found = []
    for zoom, other in _PAIRS:
        for mirrored in (False, True):
            mine, theirs = _flat(first[:, zoom]), _flat(base[:, other], mirrored)
            found.append(near_rows(mine, theirs, k, exclude_self=own))
    return np.concatenate(found, axis=1)


def _flat(x: torch.Tensor, mirrored: bool = False) -> torch.Tensor:
    coarse = functional.adaptive_avg_pool2d(x.float()[:, None], _COARSE)
    return (coarse.flip(3) if mirrored else coarse).flatten(1)


@dataclass(frozen=True)
class Fits:
    """The best ways to lay the second picture of each of p pairs upon the first.

    Attributes:
        score: (p, FITS) correlation of the structures, from -1 to 1, descending.
        place: (p, FITS, 4) ax, tx, ay, ty: the point (x, y) of the first, from -1 to 1, is the point
            (ax x + tx, ay y + ty) of the second. ax is negative where it is mirrored.
    """

    score: torch.Tensor
    place: torch.Tensor


def fits(first: torch.Tensor, second: torch.Tensor) -> Fits:
    """Find how pairs of pictures may lie upon each other.

    Args:
        first, second: (p, z, SIDE, SIDE) each, from `structure`.

    Returns:
        The best few ways, each of another zoom or mirrored.
    """
    side, reach = SIDE - 2 * SHIFT, 2 * SHIFT + 1
    first, second = first.float(), second.float()
    least = ROUNDING * side
    scores, places = [], []
    for mine, theirs in _PAIRS:
        windows = first[:, mine].unfold(1, side, 1).unfold(2, side, 1).flatten(3).flatten(1, 2)
        lengths = windows.norm(dim=2).clamp_min(least)
        for sign in (1.0, -1.0):
            core = second[:, theirs] if sign > 0 else second[:, theirs].flip(2)
            core = core[:, SHIFT:-SHIFT, SHIFT:-SHIFT].flatten(1)
            found = (windows @ core[:, :, None])[:, :, 0] / lengths
            score, at = (found / core.norm(dim=1, keepdim=True).clamp_min(least)).max(dim=1)
            down, right = (shift.float() - SHIFT for shift in (at // reach, at % reach))
            zoom = torch.full_like(score, ZOOMS[theirs] / ZOOMS[mine])
            step = ZOOMS[theirs] * 2 / SIDE
            scores.append(score)
            places.append(torch.stack([sign * zoom, -sign * step * right, zoom, -step * down], 1))
    best, which = torch.stack(scores, 1).topk(FITS, dim=1)
    place = torch.stack(places, 1).gather(1, which[:, :, None].expand(-1, -1, 4))
    return Fits(best, place)
