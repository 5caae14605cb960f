"""Brings every colour mode that a file may have to 8-bit RGB: grey, palette, CMYK, 16-bit, transparent."""

from __future__ import annotations

from typing import Any

from PIL import Image

from .value_range import Range, is_deep, nodata_of, raw, to_8bit


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
        image = Image.fromarray(to_8bit(raw(image), value_range, nodata_of(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
