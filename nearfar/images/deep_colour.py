"""Reads colour images of 16 bits a channel whole.

Pillow keeps the upper 8 bits of each channel, so that a picture of 12 bits turns black.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .colour_modes import has_unsaid_channel
from .value_range import Range, Values, find, over_white, see, to_8bit

_KINDS = ("RGB", "RGBX", "RGBA", "LA")
_NATIVE = sys.byteorder[0].upper()


def _raw_mode(image: Any) -> str:
    """Say by Pillow's name how the pixels of an image lie in its file; "" if unknown, or if it is loaded."""
    first = image.tile[0].args if image.tile else ""
    found = first[0] if isinstance(first, tuple) and first else first
    return found if isinstance(found, str) else ""


def is_deep_colour(image: Any) -> bool:
    """Tell whether an image that is not loaded has colours of 16 bits a channel, or grey and transparency."""
    kind, _, order = _raw_mode(image).partition(";16")
    return kind in _KINDS and order in ("B", "L", "N")


def halves(image: Any, again: Any) -> Values:
    """Load both bytes of each value: the upper ones, and, by reading them in the other order, the lower ones.

    Args:
        image: for which `is_deep_colour` holds; it is loaded.
        again: the same, opened a second time.

    Returns:
        (H, W, 3) or (H, W, 4) uint16, the fourth being transparency.
    """
    kind, _, order = _raw_mode(image).partition(";16")
    other = {"B": "L", "L": "B"}[_NATIVE if order == "N" else order]
    # Pillow reads LA in one order only; four bytes a pixel are also those of RGBA.
    wanted = "RGBA" if kind == "LA" else f"{kind};16{other}"
    again.tile = [
        tile._replace(args=(wanted, *tile.args[1:]) if isinstance(tile.args, tuple) else wanted)
        for tile in again.tile
    ]
    image.load()
    again.load()
    upper, lower = np.asarray(image).astype(np.uint16), np.asarray(again)
    if kind == "LA":
        lower = lower[..., [1, 1, 1, 3]]
    values = upper << 8 | lower
    return values[..., :3] if has_unsaid_channel(image) else values


def transparent(values: Values, image: Any) -> Values:
    """Add the transparency of the one colour that a PNG may call transparent.

    Args:
        values: (H, W, 3 or 4) uint16.
        image: which they are of.
    """
    clear = image.info.get("transparency")
    if values.shape[2] == 4 or not isinstance(clear, tuple) or len(clear) != 3:
        return values
    alpha = np.where((values == np.asarray(clear)).all(axis=2, keepdims=True), 0, 65535)
    return np.concatenate([values, alpha.astype(np.uint16)], axis=2)


def to_rgb(values: Values, value_range: Range | None) -> Any:
    """Turn what `halves` gives into a Pillow image of mode RGB, laid over white.

    Args:
        values: (H, W, 3 or 4) uint16.
        value_range: the values that become 0 and 255; None: as these values have it.
    """
    shown: npt.NDArray[np.uint8] = to_8bit(values[..., :3], value_range or find([see(values)]))
    if values.shape[2] == 4:
        alpha = (values[..., 3:] >> 8).astype(np.uint8)
        shown = over_white(np.concatenate([shown, alpha], axis=2))
    return Image.fromarray(shown)
