"""Brings every colour mode that a file may have to 8-bit RGB: grey, palette, CMYK, 16-bit, transparent."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def _deep_to_grey(image: Any) -> Any:
    """Scale a picture of more than 8 bits a pixel to 8, without clipping.

    16-bit values keep their high byte. 32-bit integers and floats have no agreed white: values that fit
    0 to 255 stay, integers that fit 16 bits keep their high byte, floats within 0 to 1 are times 255, and
    all else is scaled from its least to its greatest.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values >> 8).astype(np.uint8))
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = float(finite.min()), float(finite.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        finite *= 255
    elif image.mode == "I" and low >= 0 and 255 < high <= 65535:
        finite = np.floor(finite / 256)
    elif low < 0 or high > 255:
        finite = (finite - low) * (255 / (high - low))
    return Image.fromarray(np.rint(finite).astype(np.uint8))


def to_rgb(image: Any) -> Any:
    """Bring a loaded Pillow image of any mode to RGB; what is transparent is laid over white.

    Args:
        image: the image, its pixels loaded.

    Returns:
        A Pillow image of mode RGB and the same size.

    Raises:
        ValueError: Pillow knows no way from this mode to RGB.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep_to_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
