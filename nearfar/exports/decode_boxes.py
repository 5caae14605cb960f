"""Turns the raw outputs of an exported detector into boxes. It needs NumPy alone.

`model.json` beside this file has the classes, the levels, and the two bounds that the run itself takes. Of a
picture prepared as README.md says:

    outputs, told = session.run(None, {"images": x}), json.load(open("model.json"))
    how = told["levels"], told["min_score"], told["overlap"]
    boxes, scores, labels = decode(*(some[0] for some in outputs), x.shape[2], x.shape[3], *how)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any
CANDIDATES, MOST = 1000, 300  # places of a level, and boxes of an image


def shapes(height: int, width: int, levels: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Give rows and columns of each level's places.

    Args:
        height, width: of the prepared image.
        levels: each with its `stride`, whether it is `made` from the level before, and its `boxes` a place.
    """
    found: list[tuple[int, int]] = []
    for level in levels:
        if level["made"]:
            rows, columns = found[-1]
            found.append(((rows + 1) // 2, (columns + 1) // 2))
        else:
            found.append((height // level["stride"], width // level["stride"]))
    return found


def decode(
    logits: Array,
    sides: Array,
    centredness: Array,
    height: int,
    width: int,
    levels: Sequence[dict[str, Any]],
    min_score: float = 0.3,
    overlap: float = 0.6,
) -> tuple[Array, Array, Array]:
    """Find the objects on one image.

    Args:
        logits: (places, classes).
        sides: (places, 4), distances to left, top, right and bottom in units of the level's stride.
        centredness: (places, 1 or classes).
        height, width: of the prepared image, in pixels.
        levels: as in model.json.
        min_score: score above which a box is kept.
        overlap: intersection over union above which the lower of two boxes of a class is dropped.

    Returns:
        Boxes (k, 4): left, top, right, bottom in pixels of the prepared image; scores (k,), the highest
        first; class numbers (k,).
    """
    every, start = [], 0
    for level, (rows, columns) in zip(levels, shapes(height, width, levels), strict=True):
        boxes_a_place = level.get("boxes", 1)
        own = slice(start, start := start + rows * columns * boxes_a_place)
        scores = np.sqrt(_sigmoid(logits[own]) * _sigmoid(centredness[own]))
        place, label = np.nonzero(scores > min_score)
        score = scores[place, label]
        best = np.argsort(-score, kind="stable")[:CANDIDATES]
        place, label, score = place[best], label[best], score[best]
        # The places lie at the corners of a grid, which is finer than the stride where rows were rounded up.
        at = place // boxes_a_place
        y, x = at // columns * (height // rows), at % columns * (width // columns)
        far = sides[own][place] * level["stride"]
        boxes = np.stack([x - far[:, 0], y - far[:, 1], x + far[:, 2], y + far[:, 3]], 1)
        every.append((boxes.clip(0, [width, height, width, height]), score, label))
    boxes, score, label = (np.concatenate(parts) for parts in zip(*every, strict=True))
    order = np.argsort(-score, kind="stable")
    kept: list[Any] = []
    while len(order) and len(kept) < MOST:
        first, rest = order[0], order[1:]
        kept.append(first)
        order = rest[(label[rest] != label[first]) | (_overlaps(boxes[first], boxes[rest]) <= overlap)]
    chosen = np.array(kept, np.int64)
    return boxes[chosen], score[chosen], label[chosen]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def _overlaps(box: Array, others: Array) -> Array:
    """Give the intersections over unions of a box with others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.maximum(high - low, 0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return both / np.maximum(areas - both, 1e-12)
