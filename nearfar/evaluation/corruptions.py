"""Corrupts images: noise, blur, weather and compression, each at five strengths.

Thirteen of the fifteen corruptions of the usual benchmark; frost and snow are left out, since frost needs
photographs of ice. All are our own implementations, with strengths near the published ones: compare figures
among runs of nearfar, not with figures elsewhere.

Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and
perturbations", section 3.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from ..core import rng
from ..core.errors import NearfarError, nearest

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Draw = np.random.Generator
Five = tuple[float, float, float, float, float]

STRENGTHS = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224  # short sides for which strengths are given; between them they go over geometrically


def _between(x: Floats, level: int, small: Five, large: Five) -> float:
    """Give the strength for an image's side, from those for 32 px and for 224 px."""
    way = math.log(min(x.shape[:2]) / SMALL) / math.log(LARGE / SMALL)
    way = min(1.0, max(0.0, way))
    return small[level] ** (1 - way) * large[level] ** way


def _length(x: Floats, level: int, lengths: Five) -> float:
    """Give a length in pixels of an image, from those in pixels of an image of 224 px."""
    return lengths[level] * min(x.shape[:2]) / LARGE


def _gaussian_noise(x: Floats, level: int, draw: Draw) -> Floats:
    spread = _between(x, level, (0.03, 0.05, 0.07, 0.09, 0.12), (0.08, 0.12, 0.18, 0.26, 0.38))
    return x + np.float32(spread) * draw.standard_normal(x.shape, np.float32)


def _shot_noise(x: Floats, level: int, draw: Draw) -> Floats:
    """Count photons, of which white sends so many."""
    white = _between(x, level, (500, 250, 120, 75, 45), (60, 25, 12, 6, 3))
    return (draw.poisson(x * np.float32(white)) / white).astype(np.float32)


def _impulse_noise(x: Floats, level: int, draw: Draw) -> Floats:
    """Set a share of the values to 0 or to 1, as often."""
    share = _between(x, level, (0.01, 0.02, 0.035, 0.055, 0.08), (0.03, 0.06, 0.1, 0.17, 0.27))
    u = draw.random(x.shape, np.float32)
    return np.where(u < share / 2, np.float32(0), np.where(u >= 1 - share / 2, np.float32(1), x))


def _spread(x: Floats, down: Floats, right: Floats) -> Floats:
    """Spread each pixel evenly over points (m,) around it, between pixels by their blend."""
    reach = math.ceil(max(np.abs(down).max(), np.abs(right).max())) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    top, left = np.floor(down).astype(int), np.floor(right).astype(int)
    for row in (top, top + 1):
        for column in (left, left + 1):
            share = (1 - np.abs(down - row)) * (1 - np.abs(right - column))
            np.add.at(kernel, (reach + row, reach + column), share)
    # Beyond its edge an image is mirrored, or repeated if it is too small for that.
    mode = "reflect" if reach < min(x.shape[:2]) else "replicate"
    planes = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[:, None]
    weights = torch.from_numpy(kernel / kernel.sum())[None, None]
    blurred = F.conv2d(F.pad(planes, (reach, reach, reach, reach), mode), weights)
    return blurred[:, 0].permute(1, 2, 0).numpy()


def _defocus_blur(x: Floats, level: int, draw: Draw) -> Floats:
    """Spread each pixel over a disc."""
    radius = np.float32(_length(x, level, (3.0, 4.5, 6.0, 8.0, 10.5)))
    down, right = np.mgrid[-1:1:33j, -1:1:33j].astype(np.float32)
    inside = down**2 + right**2 <= 1
    return _spread(x, radius * down[inside], radius * right[inside])


def _motion_blur(x: Floats, level: int, draw: Draw) -> Floats:
    """Spread each pixel over a line, at up to 45 degrees from the horizontal."""
    length = np.float32(_length(x, level, (8.0, 13.0, 19.0, 27.0, 36.0)))
    angle = math.pi * (draw.random() - 0.5) / 2
    along = length * np.linspace(-0.5, 0.5, 129, dtype=np.float32)
    return _spread(x, along * np.float32(math.sin(angle)), along * np.float32(math.cos(angle)))


def _zoom_blur(x: Floats, level: int, draw: Draw) -> Floats:
    """Take the mean over a zoom into the centre."""
    most = (1.10, 1.16, 1.22, 1.28, 1.35)[level]
    high, wide = x.shape[:2]
    image = Image.fromarray(_bytes(x))
    total = np.zeros_like(x)
    zooms = np.linspace(1, most, 16)
    for zoom in zooms:
        rim = (wide - wide / zoom) / 2, (high - high / zoom) / 2
        box = (rim[0], rim[1], wide - rim[0], high - rim[1])
        total += np.asarray(image.resize((wide, high), Image.Resampling.BILINEAR, box=box))
    return total / np.float32(255 * len(zooms))


def _moved(x: Floats, down: Floats, right: Floats) -> Floats:
    """Fetch each pixel from some pixels further down and to the right, between pixels by their blend."""
    high, wide = x.shape[:2]
    rows, columns = (
        np.arange(high, dtype=np.float32)[:, None] + down,
        np.arange(wide, dtype=np.float32) + right,
    )
    place = np.stack([2 * columns / max(1, wide - 1) - 1, 2 * rows / max(1, high - 1) - 1], axis=2)
    planes = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]
    found = F.grid_sample(
        planes, torch.from_numpy(place)[None], "bilinear", padding_mode="reflection", align_corners=True
    )
    return found[0].permute(1, 2, 0).numpy()


def _glass_blur(x: Floats, level: int, draw: Draw) -> Floats:
    """Fetch each pixel from somewhere near by, as rough glass does."""
    spread = np.float32(_length(x, level, (1.4, 2.0, 2.8, 3.8, 5.0)))
    down, right = spread * draw.standard_normal((2, *x.shape[:2]), np.float32)
    return _moved(x, down, right)


def _smooth(draw: Draw, cells: int, shape: tuple[int, ...]) -> Floats:
    """Draw a smooth field from normal numbers at so many points a side."""
    coarse = torch.from_numpy(draw.standard_normal((1, 1, cells, cells), np.float32))
    fine = F.interpolate(coarse, shape[:2], mode="bicubic", align_corners=True)
    return fine[0, 0].numpy()


def _elastic(x: Floats, level: int, draw: Draw) -> Floats:
    """Stretch and squeeze, by a smooth field of shifts."""
    spread = np.float32(_length(x, level, (2.5, 4.0, 6.0, 8.5, 11.5)))
    return _moved(x, spread * _smooth(draw, 8, x.shape), spread * _smooth(draw, 8, x.shape))


def _fog(x: Floats, level: int, draw: Draw) -> Floats:
    """Mix with light grey, in clouds of every size: each octave of twice the detail is half as strong."""
    density = (0.3, 0.42, 0.54, 0.66, 0.78)[level]
    sizes = range(1, 1 + int(math.log2(max(2, min(x.shape[:2])))))
    clouds = sum((_smooth(draw, 2**k + 1, x.shape) / 2**k for k in sizes), np.zeros(x.shape[:2], np.float32))
    clouds = (clouds - clouds.min()) / max(1e-6, float(clouds.max() - clouds.min()))
    share = (density * (0.6 + 0.4 * clouds))[..., None]
    return x * (1 - share) + np.float32(0.85) * share


def _brightness(x: Floats, level: int, draw: Draw) -> Floats:
    """Add to every value."""
    return x + np.float32(_between(x, level, (0.06, 0.12, 0.18, 0.24, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)))


def _contrast(x: Floats, level: int, draw: Draw) -> Floats:
    """Pull every value towards the mean of its colour in the image."""
    left = np.float32(_between(x, level, (0.6, 0.45, 0.33, 0.24, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)))
    mean = x.mean((0, 1), dtype=np.float64).astype(np.float32)
    return mean + left * (x - mean)


def _pixelate(x: Floats, level: int, draw: Draw) -> Floats:
    """Make one pixel of several, of not quite two to more than four a side at 224 px."""
    several = 1 + _length(x, level, (0.7, 1.2, 1.8, 2.5, 3.3))
    image = Image.fromarray(_bytes(x))
    wide, high = (max(1, round(side / several)) for side in image.size)
    small = image.resize((wide, high), Image.Resampling.BOX)
    return _floats(small.resize(image.size, Image.Resampling.NEAREST))


def _jpeg(x: Floats, level: int, draw: Draw) -> Floats:
    """Save as JPEG of low quality, and read back."""
    quality = round(_between(x, level, (75, 60, 48, 38, 28), (25, 18, 14, 10, 7)))
    file = io.BytesIO()
    Image.fromarray(_bytes(x)).save(file, "JPEG", quality=quality)
    return _floats(Image.open(file))


def _bytes(x: Floats) -> Pixels:
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


def _floats(image: Image.Image | Pixels) -> Floats:
    return np.asarray(image, np.float32) / np.float32(255)


_CORRUPTIONS: Mapping[str, Callable[[Floats, int, Draw], Floats]] = {
    "gaussian-noise": _gaussian_noise,
    "shot-noise": _shot_noise,
    "impulse-noise": _impulse_noise,
    "defocus-blur": _defocus_blur,
    "glass-blur": _glass_blur,
    "motion-blur": _motion_blur,
    "zoom-blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
NAMES = tuple(_CORRUPTIONS)


def corrupt(
    images: Pixels, name: str, strength: int, key: int, rows: npt.NDArray[np.int64] | None = None
) -> Pixels:
    """Spoil images in one way; the strengths suit the images' short side.

    Args:
        images: (n, h, w, 3) uint8, not changed.
        name: one of `NAMES`.
        strength: 1 to 5; the draws are the same for all five.
        key: from `rng.fold`; with the name and an image's row it names what is drawn for that image.
        rows: (n,) numbers that name the images; 0 to n - 1 if not given.

    Returns:
        (n, h, w, 3) uint8.

    Raises:
        NearfarError: there is no such corruption or strength.
    """
    if name not in _CORRUPTIONS:
        raise NearfarError(f"there is no corruption {name!r}; {nearest(name, NAMES)}")
    if strength not in STRENGTHS:
        raise NearfarError(f"a corruption has no strength {strength}; give 1, 2, 3, 4 or 5.")
    corrupted = np.empty_like(images)
    for place, row in enumerate(range(len(images)) if rows is None else rows.tolist()):
        draw = np.random.Generator(np.random.Philox(key=rng.fold(key, name, row)))
        corrupted[place] = _bytes(_CORRUPTIONS[name](_floats(images[place]), strength - 1, draw))
    return corrupted
