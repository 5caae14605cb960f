"""Makes copies of pictures as they come about: resized, saved again, cropped, mirrored."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core import rng
from ..images.decode import Pixels

Draw = npt.NDArray[np.float32]


def resized(pixels: Pixels, zoom: float) -> Pixels:
    """Resize a picture.

    Args:
        pixels: (H, W, 3) uint8.
        zoom: new sides as a share of the old.

    Returns:
        (H', W', 3) uint8.
    """
    high, wide = (max(1, round(zoom * side)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC))


def saved(pixels: Pixels, quality: int) -> Pixels:
    """Save a picture as a JPEG and read it again.

    Args:
        pixels: (H, W, 3) uint8.
        quality: as JPEG counts it.

    Returns:
        (H, W, 3) uint8.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=("JPEG",)))


def cropped(pixels: Pixels, share: float, draw: Draw) -> Pixels:
    """Cut a picture.

    Args:
        pixels: (H, W, 3) uint8.
        share: of each side that is left.
        draw: two numbers in [0, 1) that say from where.

    Returns:
        (H', W', 3) uint8.
    """
    high, wide = pixels.shape[:2]
    h, w = (max(1, round(share * side)) for side in (high, wide))
    top, left = int(draw[0] * (high - h + 1)), int(draw[1] * (wide - w + 1))
    return np.ascontiguousarray(pixels[top : top + h, left : left + w])


WAYS: Mapping[str, Callable[[Pixels, Draw], Pixels]] = {
    "resized": lambda x, draw: resized(x, 0.5 + float(draw[0])),
    "saved again": lambda x, draw: saved(x, int(40 + 50 * draw[0])),
    "mirrored": lambda x, draw: saved(x[:, ::-1].copy(), 85),
    "cropped": lambda x, draw: cropped(x, 0.8 + 0.18 * float(draw[2]), draw),
    "cropped, resized and saved again": lambda x, draw: saved(resized(cropped(x, 0.9, draw), 0.75), 75),
}


def copies(pixels: Pixels, seed: int) -> list[Pixels]:
    """Copy a picture in each of the `WAYS`.

    Args:
        pixels: (H, W, 3) uint8.
        seed: of how much it is changed.

    Returns:
        The copies, in the order of `WAYS`.
    """
    draws = rng.uniform(rng.fold(seed, "planted copies"), np.arange(len(WAYS)), 3)
    return [way(pixels, draw) for way, draw in zip(WAYS.values(), draws, strict=True)]
