"""Objects that were found, as YOLO's text and as frames on their image."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Kept = Sequence[tuple[str, float, Sequence[float]]]
"""Class, score and box of each object: left, top, right and bottom in shares of the image's sides."""

COLOURS = np.array(
    [(230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180), (70, 240, 240)],
    np.uint8,
)  # fmt: skip


def yolo_text(kept: Kept, classes: Sequence[str]) -> bytes:
    """Write a line an object: the number of its class, its middle and its sides."""
    lines = []
    for name, _, (left, top, right, bottom) in kept:
        numbers = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        lines.append(f"{classes.index(name)} {' '.join(f'{value:.6f}' for value in numbers)}\n")
    return "".join(lines).encode()


def yolo_names(classes: Sequence[str]) -> bytes:
    """Write data.yaml, which names the classes."""
    return f"nc: {len(classes)}\nnames: {json.dumps(list(classes), ensure_ascii=False)}\n".encode()


def framed(
    pixels: npt.NDArray[np.uint8], kept: Kept, classes: Sequence[str]
) -> tuple[npt.NDArray[np.uint8], str]:
    """Draw frames in the classes' colours on (h, w, 3) pixels, and count the objects."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    pen, thick = ImageDraw.Draw(image), max(1, round(max(image.size) / 160))
    for name, _, (left, top, right, bottom) in kept:
        colour = tuple(COLOURS[classes.index(name) % len(COLOURS)].tolist())
        corners = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        pen.rectangle(corners, outline=colour, width=thick)
    names = [name for name, _, _ in kept]
    told = [f"{names.count(name)} {name}" for name in classes if name in names]
    return np.asarray(image), ", ".join(told) or "nothing"
