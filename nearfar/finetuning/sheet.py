"""Draws a sheet of predicted images, each over its caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..core.atomic import atomic_write, check_place
from ..core.errors import NearfarError
from ..core.text import printable

SHOWN, ACROSS = 60, 10  # images on a sheet, and in a line of it
SIDE, GAP, CAPTION = 128, 8, 15  # pixels: of an image's longer side, between two, of a line of caption
PAPER, INK, SOFT = (250, 250, 248), (30, 30, 30), (110, 110, 110)

Tile = tuple[npt.NDArray[np.uint8], str, str]
"""An image (h, w, 3), its caption and its name."""


def check_name(path: Path) -> None:
    """Refuse a name that is not of a .png file, and a place that cannot be written."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise NearfarError(f"--sheet {path} is no .png file; name one, such as sheet.png.")
    check_place(path)


def write(path: Path, tiles: Sequence[Tile]) -> None:
    """Write a sheet.

    Args:
        path: a .png file.
        tiles: at most SHOWN are drawn.
    """
    tiles = tiles[:SHOWN]
    across = max(1, min(ACROSS, len(tiles)))
    down, step, high = -(-len(tiles) // across), SIDE + GAP, SIDE + GAP + 2 * CAPTION
    canvas = Image.new("RGB", (GAP + across * step, GAP + down * high), PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=CAPTION - 4)
    for at, (pixels, caption, name) in enumerate(tiles):
        left, top = GAP + at % across * step, GAP + at // across * high
        picture = Image.fromarray(pixels)
        scale = SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
        canvas.paste(picture.resize(size, how), (left, top))
        pen.text((left, top + SIDE), _fitted(pen, printable(caption), font), INK, font)
        pen.text((left, top + SIDE + CAPTION), _fitted(pen, printable(name), font, at_end=True), SOFT, font)
    with atomic_write(path, folders=True) as file:
        canvas.save(file, "PNG")


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: object, at_end: bool = False) -> str:
    """Shorten a text to a tile; a name keeps its end."""
    text, cut = text[-200:] if at_end else text[:200], text
    while text and pen.textlength(text, font) > SIDE:  # type: ignore[arg-type]
        cut = cut[1:] if at_end else cut[:-1]
        text = f"…{cut}" if at_end else f"{cut}…"
    return text
