"""Draws the beginning of a text as a small picture, for where thumbnails are shown."""

from __future__ import annotations

import io
import textwrap

from ..core.text import printable

PAPER, INK = (250, 250, 248), (30, 30, 30)
ACROSS, LETTER = 16, 10  # characters in a line, and their height in pixels, of 96


def picture(text: str, side: int) -> bytes:
    """Draw the first words of a text.

    Args:
        text: any text; letters that the font lacks are drawn as boxes.
        side: of the picture, in pixels.

    Returns:
        A JPEG file.
    """
    from PIL import Image, ImageDraw, ImageFont

    height = max(6, round(LETTER * side / 96))
    plain = printable(" ".join(text[: 4 * ACROSS**2].split()))
    lines = textwrap.wrap(plain, ACROSS, max_lines=max(1, side // (height + 2)), placeholder=" …")
    image = Image.new("RGB", (side, side), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=height)
    for number, line in enumerate(lines):
        pen.text((2, 1 + number * (height + 2)), line, INK, font)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
