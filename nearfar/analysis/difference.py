"""Measures how much two pictures differ at the place where they differ most, once one is laid upon the other.

A copy that was resized, saved again, cropped, mirrored, or made lighter or darker differs little everywhere.
Two pages, two drawings or two boards of one design differ much somewhere, however much they have in common:
what a whole collection has in common, such as a white ground, counts for nothing here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ..images.decode import Pixels
from .structure import FITS, Fits, squeezed

LARGEST = 256  # pixels a side at which pictures are compared, at most
FIRST = 64  # pixels a side of a first comparison
APART = 0.6  # difference in the first comparison from which pictures need no second
GAIN = (0.6, 1.7)  # how much darker or lighter a copy may be
CONTRAST = 0.06  # of the range of pixels; a picture with less has nothing that could differ
SOFT = 4  # pixels within which colours are softened: a JPEG keeps them at half the resolution
GREY = 0.03  # strongest colour, of the range of pixels, up to which a picture is grey
STRETCH = 0.06  # log of how much more one picture may be stretched in one direction than in the other
STRETCHED = 0.3  # the same for two pictures full of detail, which no stretch makes alike unless they are
DETAIL = 0.4  # share of places in which something is to be seen, of such pictures
WITHIN = 0.75  # share of one of two pictures that lies in the other, at least
USUAL = (
    2.0  # weight of the root mean square difference: other colours differ everywhere, and nowhere very much
)

_SMALL = 128  # pictures with a shorter side are compared at twice their size
_STEPS = 6  # of the fit at each size
_ZOOM = (0.6, 1.7)  # how far the fit may go
_AT_ONCE = 1 << 18  # pixels of a batch: few megabytes, which stay in the processor's cache

Differences = npt.NDArray[np.float32]


def differences(first: Sequence[Pixels], second: Sequence[Pixels], ways: Fits) -> Differences:
    """Measure how much pairs of pictures differ.

    Args:
        first, second: p pictures each, (H, W, 3) uint8.
        ways: how the second may lie upon the first, from `structure.fits`.

    Returns:
        (p,) of the best fit: 0 where nothing differs; about 1 where something is there in one and not in the
        other, as a share of the contrast of the two.
    """
    found = np.ones(len(first), np.float32)
    at_side = defaultdict(list)
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        shortest = min(*a.shape[:2], *b.shape[:2])
        at_side[max(16, min(LARGEST, max(min(2 * shortest, _SMALL), shortest)))].append(pair)
    for side, pairs in at_side.items():
        step = max(1, _AT_ONCE // side**2)
        for low in range(0, len(pairs), step):
            some = pairs[low : low + step]
            one, two = (torch.stack([squeezed(x[pair], side) for pair in some]) for x in (first, second))
            shapes = torch.tensor([[*first[pair].shape[:2], *second[pair].shape[:2]] for pair in some])
            high_a, wide_a, high_b, wide_b = shapes.float().unbind(1)
            found[some] = _differences(
                one, two, ways.place[some], wide_b * high_a / (wide_a * high_b)
            ).numpy()
    return found


def _differences(
    a: torch.Tensor, b: torch.Tensor, places: torch.Tensor, aspect: torch.Tensor
) -> torch.Tensor:
    """Compare pairs at a small size in the way that fits best, and those that may be copies at their own."""
    side, pairs = a.shape[-1], torch.arange(len(a))
    low_a, low_b = (_resized(x, min(side, FIRST)) for x in (a, b))
    # All ways at once: of few pairs, the calls cost more than the arithmetic.
    every_a, every_b = (x.repeat_interleave(FITS, 0) for x in (low_a, low_b))
    fitted, error = _fit(every_a, every_b, places.flatten(0, 1), (16, 32), _STEPS)
    place = fitted.view(len(a), FITS, 4)[pairs, error.view(len(a), FITS).argmin(dim=1)]
    place, _ = _fit(low_a, low_b, place, (min(side, FIRST),), _STEPS)
    value = _worst(low_a, low_b, place, aspect)
    if side > FIRST and bool((near := value < APART).any()):
        one, other = a[near], b[near]
        sizes = [size for size in (128,) if size < 0.75 * side] + [side]
        fitted_near, _ = _fit(one, other, place[near], sizes, _STEPS // 2)
        value[near] = _worst(one, other, fitted_near, aspect[near])
    return value


def _resized(x: torch.Tensor, size: int) -> torch.Tensor:
    if size == x.shape[-1]:
        return x
    return functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)


def _grid(place: torch.Tensor, side: int) -> torch.Tensor:
    """Lay the points of the first picture upon the second: (p, side, side, 2)."""
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    x = place[:, 0, None] * at + place[:, 1, None]
    y = place[:, 2, None] * at + place[:, 3, None]
    return torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)


def _fit(
    a: torch.Tensor, b: torch.Tensor, place: torch.Tensor, sizes: Sequence[int], steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move and stretch the second picture until its brightness fits the first, from coarse to fine.

    Returns:
        (p, 4) places; (p,) the share of the first's brightness that the second leaves unexplained.

    Source:
        Lucas and Kanade 1981, "An iterative image registration technique with an application to stereo
        vision"; here with the gain and offset of the brightness among the unknowns.
    """
    a, b = (x.mean(dim=1, keepdim=True) for x in (a, b))
    slope = torch.tensor([-0.5, 0, 0.5])
    error = torch.ones(len(a))
    for size in sizes:
        mine, theirs = _resized(a, size)[:, 0], _resized(b, size)
        padded = functional.pad(theirs, (1, 1, 1, 1), mode="replicate")
        across = functional.conv2d(padded[:, :, 1:-1], slope.view(1, 1, 1, 3) * size / 2)
        down = functional.conv2d(padded[:, :, :, 1:-1], slope.view(1, 1, 3, 1) * size / 2)
        stack = torch.cat([theirs, across, down], dim=1)
        at = (torch.arange(size) + 0.5) / size * 2 - 1
        best, error = place, torch.full((len(a),), torch.inf)
        for step in range(steps + 1):
            grid = _grid(place, size)
            seen = functional.grid_sample(stack, grid, padding_mode="border", align_corners=False)
            inside = (grid.abs() <= 1).all(dim=-1).float()
            value, dx, dy = seen.unbind(1)
            now = _unexplained(mine, value, inside)
            best = torch.where((now < error)[:, None], place, best)
            error = torch.minimum(now, error)
            if step == steps:
                break
            unknowns = [value, torch.ones_like(value), dx * at, dx, dy * at[:, None], dy]
            columns = (torch.stack(unknowns, 1) * inside[:, None]).flatten(2)  # (p, 6, size^2)
            wanted = (mine * inside).flatten(1)[:, :, None]
            normal = columns @ columns.transpose(1, 2)
            damping = 1e-4 * normal.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-6
            normal = normal + damping[:, None, None] * torch.eye(6)
            solved = torch.linalg.solve(normal, columns @ wanted)[:, :, 0]
            move = solved[:, 2:] / solved[:, :1].clamp(0.3, 3)
            place = _bounded(place + move.clamp(-0.1, 0.1))
        place = best
    return place, error


def _unexplained(a: torch.Tensor, b: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """One less the squared correlation of the brightness, where both pictures are."""
    count = inside.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    a, b = ((x - (x * inside).sum(dim=(1, 2), keepdim=True) / count) * inside for x in (a, b))
    along = (a * b).sum(dim=(1, 2)).clamp_min(0)
    return 1 - along.square() / (a.square().sum(dim=(1, 2)) * b.square().sum(dim=(1, 2)) + 1e-9)


def _bounded(place: torch.Tensor) -> torch.Tensor:
    mirrored = torch.where(place[:, 0] < 0, -1.0, 1.0)
    ax = (place[:, 0] * mirrored).clamp(*_ZOOM) * mirrored
    return torch.stack([ax, place[:, 1].clamp(-1, 1), place[:, 2].clamp(*_ZOOM), place[:, 3].clamp(-1, 1)], 1)


def _worst(a: torch.Tensor, b: torch.Tensor, place: torch.Tensor, aspect: torch.Tensor) -> torch.Tensor:
    """Find the greatest mean difference in any 3 x 3 pixels, beyond what a pixel's shift explains.

    Where colours differ and brightness does not, a JPEG's halved planes of colour are not counted: colours
    are softened first.
    """
    side = a.shape[-1]
    most = torch.where(torch.minimum(_detail(a), _detail(b)) < DETAIL, STRETCH, STRETCHED)
    a, b = _same_colours(a, b)
    grid = _grid(place, side)
    b = functional.grid_sample(b, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1).all(dim=-1).float()[:, None]
    count = (3 * inside.sum(dim=(1, 2, 3))).clamp_min(1)[:, None, None, None]
    mean_a, mean_b = ((x * inside).sum(dim=(1, 2, 3), keepdim=True) / count for x in (a, b))
    from_a, from_b = (a - mean_a) * inside, (b - mean_b) * inside
    power_a, power_b = (x.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-6 for x in (from_a, from_b))
    b = (b - mean_b) * (power_a / power_b).sqrt().clamp(*GAIN) + mean_a
    over = torch.maximum(_beyond(b, a), _beyond(a, b)).amax(dim=1, keepdim=True)
    inner = -_highest(-functional.pad(inside, (2, 2, 2, 2)), 2)[:, :, 2:-2, 2:-2]
    worst = functional.avg_pool2d(over * inner, 3, stride=1, padding=1).flatten(1).amax(dim=1)
    spread = functional.avg_pool2d((from_a * inner).abs(), 3, stride=1, padding=1).flatten(1).amax(dim=1)
    power = (from_a.square().amax(dim=1, keepdim=True) * inner).sum(dim=(1, 2, 3)).clamp_min(1e-6)
    usual = ((over * inner).square().sum(dim=(1, 2, 3)) / power).sqrt()
    found = torch.maximum(worst / spread.clamp(CONTRAST, 1), USUAL * usual)
    mine = inside.mean(dim=(1, 2, 3))
    covered = torch.stack([mine, mine * (place[:, 0] * place[:, 2]).abs()])  # of the first, of the second
    # A copy is as much wider as it is higher: in pixels if it was cropped, in shares if it was squeezed. Any
    # box could else be laid upon any other. One cut to another shape and then squeezed is neither.
    stretch = (place[:, 0].abs() / place[:, 2]).log()
    bent = torch.minimum(stretch.abs(), (stretch + aspect.log()).abs()) > most
    apart = (covered.amin(dim=0) < 0.4) | (covered.amax(dim=0) < WITHIN) | bent
    return torch.where((spread < CONTRAST) | apart, torch.ones(()), found)


def _detail(x: torch.Tensor) -> torch.Tensor:
    """Give the share of places in which the brightness is not the same all over."""
    grey = _resized(x.mean(dim=1, keepdim=True), min(x.shape[-1], FIRST))
    return (_highest(grey, 2) + _highest(-grey, 2) > 2 * CONTRAST).float().mean(dim=(1, 2, 3))


def _same_colours(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Soften the colours of both; take them off where one of the two has none."""
    greys = [x.mean(dim=1, keepdim=True) for x in (a, b)]
    colours = [x - grey for x, grey in zip((a, b), greys, strict=True)]
    padded = [functional.pad(x, 4 * [SOFT], mode="replicate") for x in colours]
    # The mean along one direction, then along the other: the same, in a fifth of the additions.
    wide = 2 * SOFT + 1
    down = [functional.avg_pool2d(x, (wide, 1), stride=1) for x in padded]
    soft = [functional.avg_pool2d(x, (1, wide), stride=1) for x in down]
    strength = torch.stack([x.abs().amax(dim=(1, 2, 3)) for x in soft]).amin(dim=0)
    both = (strength > GREY).float()[:, None, None, None]
    made = [grey + both * x for grey, x in zip(greys, soft, strict=True)]
    return made[0], made[1]


def _beyond(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Say how far each pixel lies outside what the other has within a pixel of it."""
    return (x - _highest(other, 1)).clamp_min(0) + (-_highest(-other, 1) - x).clamp_min(0)


def _highest(x: torch.Tensor, reach: int) -> torch.Tensor:
    """Take the highest value within some pixels of each: several times as fast as `max_pool2d` on a CPU."""
    for axis in (2, 3):
        size = x.shape[axis]
        padded = functional.pad(x, 2 * [reach * (axis == 3)] + 2 * [reach * (axis == 2)], value=-torch.inf)
        x = padded.narrow(axis, 0, size)
        for step in range(1, 2 * reach + 1):
            x = torch.maximum(x, padded.narrow(axis, step, size))
    return x
