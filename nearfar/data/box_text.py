"""Writes the boxes on an image as one compact text, as a store's column keeps them, and reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..core.shapes import loads

BOXES = "boxes"  # the column of a store
MOST = 1000  # boxes of one image that are read


class DrawnBox(NamedTuple):
    """One box: its class, its score if there is one, and its corners in pixels of the upright image."""

    name: str
    score: float | None
    left: float
    top: float
    right: float
    bottom: float


def write(boxes: Sequence[DrawnBox]) -> str:
    """Write boxes as JSON, a list for each: class, score, left, top, right, bottom.

    Args:
        boxes: of one image.
    """
    return json.dumps([list(box) for box in boxes], ensure_ascii=False, separators=(",", ":"))


def read(text: Any) -> list[DrawnBox]:
    """Read what `write` wrote; of anything else, what makes sense of it.

    Args:
        text: of a store, which may be a stranger's.

    Returns:
        `MOST` boxes at most.
    """
    try:
        found = loads(text) if isinstance(text, str) else []
    except ValueError:
        return []
    return [
        DrawnBox(*one)
        for one in (found if isinstance(found, list) else [])[:MOST]
        if isinstance(one, list)
        and len(one) == len(DrawnBox._fields)
        and isinstance(one[0], str)
        and (one[1] is None or is_number(one[1]))
        and all(map(is_number, one[2:]))
    ]


def is_number(value: Any) -> bool:
    """Tell a finite number from anything else."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
