"""Large images in overlapping windows, as a detector sees them at the scale at which it was trained.

An object counts where its middle lies in the window's own part: the windows' parts fill the image without
overlap, and reach to the middle of what two windows share. So an object that is smaller than the overlap is
told by a window that sees it whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..analysis.detection_scores import Found

OVERLAP = 4  # a window shares this part of its side, one over it, with the next
SAME = 0.5  # intersection over union above which two boxes of a class are one object


class Window(NamedTuple):
    """One window: where it starts, and its own part, first and one after the last, in pixels."""

    start: int
    low: float
    high: float


def along(length: int, tile: int) -> list[Window]:
    """Place windows along one side.

    Args:
        length: of the image, in pixels.
        tile: of a window.

    Returns:
        The fewest windows that cover it and share at least 1 / `OVERLAP` of their side, evenly spread.
    """
    step = max(1, tile - tile // OVERLAP)
    count = 1 if length <= tile else -(-(length - tile) // step) + 1
    starts = [round(at * (length - tile) / (count - 1)) if count > 1 else 0 for at in range(count)]
    borders = [(one + tile + other) / 2 for one, other in zip(starts, starts[1:], strict=False)]
    return [
        Window(start, low, high)
        for start, low, high in zip(starts, [-np.inf, *borders], [*borders, np.inf], strict=True)
    ]


def over(height: int, width: int, tile: int) -> Iterator[tuple[Window, Window]]:
    """Give the windows of an image, down and across, row by row."""
    for down in along(height, tile):
        for across in along(width, tile):
            yield down, across


def owned(
    boxes: npt.NDArray[np.float64], down: Window, across: Window
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Move a window's boxes into the image.

    Args:
        boxes: (k, 4) in pixels of the window.
        down, across: the window.

    Returns:
        (k, 4) in pixels of the image; and (k,) which have their middle in the window's own part.
    """
    moved = boxes + np.array([across.start, down.start, across.start, down.start])
    x, y = (moved[:, 0] + moved[:, 2]) / 2, (moved[:, 1] + moved[:, 3]) / 2
    inside = (x >= across.low) & (x < across.high) & (y >= down.low) & (y < down.high)
    return moved, inside


def merged(found: list[Found]) -> Found:
    """Join what several windows found; of boxes of a class that are one object the surest stays.

    Args:
        found: with boxes in pixels of the image.
    """
    boxes = np.concatenate([one.boxes for one in found])
    labels = np.concatenate([one.labels for one in found])
    scores = np.concatenate([one.scores for one in found if one.scores is not None])
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[rest, :2])
        both = np.maximum(np.minimum(boxes[first, 2:], boxes[rest, 2:]) - low, 0).prod(1)
        areas = (boxes[rest, 2:] - boxes[rest, :2]).prod(1) + (boxes[first, 2:] - boxes[first, :2]).prod()
        order = rest[(labels[rest] != labels[first]) | (both <= SAME * (areas - both))]
    at = np.array(kept, np.int64)
    return Found(boxes[at], labels[at], scores[at])
