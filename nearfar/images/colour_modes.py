"""Brings every colour mode that a file may have to 8-bit RGB: grey, palette, CMYK, 16-bit, transparent."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from .value_range import Range, find, is_deep, is_negative, nodata_of, raw, see, to_8bit

# TIFF tags
_PALETTE = 320
_EXTRA_SAMPLES = 338


def has_unsaid_channel(image: Any) -> bool:
    """Tell whether a TIFF has a fourth channel beside RGB of which it does not say that it is transparency.

    Pillow takes it for that; it may as well be infrared.
    """
    return image.mode == "RGBA" and image.format == "TIFF" and _EXTRA_SAMPLES not in image.tag_v2


def to_rgb(image: Any, value_range: Range | None = None) -> Any:
    """Bring a loaded Pillow image of any mode to RGB; what is transparent is laid over white.

    Args:
        image: the image, its pixels loaded.
        value_range: of an image of more than 8 bits, the values that become 0 and 255; None: as this image
            alone has it, see `value_range.find`.

    Returns:
        A Pillow image of mode RGB and the same size.

    Raises:
        ValueError: Pillow knows no way from this mode to RGB.
    """
    if is_deep(image):
        image = _deep_to_grey(image, value_range)
    elif image.mode == "P":
        _mend_palette(image)
    elif has_unsaid_channel(image):
        return image.convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_to_grey(image: Any, value_range: Range | None) -> Any:
    """Bring grey of more than 8 bits to 8, also counted from white down, or with a clear value."""
    values, nodata = raw(image), nodata_of(image)
    low, high = value_range or find([see(values, nodata=nodata)])
    span = (high, low) if is_negative(image) else (low, high)
    shown = Image.fromarray(to_8bit(values, span, nodata))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        shown.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return shown


def _mend_palette(image: Any) -> None:
    """Read a TIFF's palette as 8 bits where none of its colours uses more: some programs write it so."""
    colours = getattr(image, "tag_v2", {}).get(_PALETTE)
    if isinstance(colours, tuple) and colours and max(colours) < 256:
        image.putpalette(np.array(colours, np.uint8).reshape(3, -1).T.tobytes())
