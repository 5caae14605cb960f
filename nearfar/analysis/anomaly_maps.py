"""Turns scores of patches into maps of a picture's own size, and these into boxes of the strangest parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

BOXES = 5  # of a picture, at most
PEAK = 0.5  # of the way from the median to the peak: what is above it belongs to the same part

Map = npt.NDArray[np.float32]


def full_size(places: torch.Tensor, shape: tuple[int, int], smooth: float = 0.5) -> Map:
    """Enlarge the scores of a picture's patches to its own size.

    Args:
        places: (h, w) float32.
        shape: height and width of the picture, in pixels.
        smooth: deviation of the Gaussian that smooths them, in places. PatchCore's 4 pixels are half a place
            of stride 8.

    Returns:
        `shape` float32.

    Source:
        Roth et al. 2022, section 3.3.
    """
    x = smoothed(places[None, None], smooth)
    found: Map = F.interpolate(x, shape, mode="bilinear")[0, 0].numpy()
    return found


def smoothed(x: torch.Tensor, smooth: float = 0.5) -> torch.Tensor:
    """Smooth maps by a Gaussian.

    Args:
        x: (n, 1, h, w).
        smooth: its deviation in places; 0 leaves them as they are.
    """
    if smooth > 0:
        reach = max(1, round(4 * smooth))
        at = torch.arange(-reach, reach + 1)
        weight = (-(at.square()) / (2 * smooth**2)).exp()
        weight = (weight / weight.sum()).to(x)
        for dim in (2, 3):
            pad = [0, 0, reach, reach] if dim == 2 else [reach, reach, 0, 0]
            view = weight.view(1, 1, -1, 1) if dim == 2 else weight.view(1, 1, 1, -1)
            x = F.conv2d(F.pad(x, pad, mode="replicate"), view)
    return x


def boxes(scores: Map, floor: float | None = None) -> list[dict[str, Any]]:
    """Box the strangest parts of a picture.

    Args:
        scores: (h, w), a map as `full_size` gives it.
        floor: what a part's peak has to exceed; by default half of the way from the map's median to its peak.

    Returns:
        Up to `BOXES` parts, the strangest first: `x1`, `y1`, `x2`, `y2` in pixels, the ends excluded, and the
        `score` of its peak. A part is what is connected above half of the way from the median to the peak of
        the picture, or above the floor if that is higher.
    """
    from scipy.ndimage import find_objects, label, maximum

    middle, peak = float(np.median(scores)), float(scores.max())
    level = middle + PEAK * (peak - middle)
    level = level if floor is None else max(level, floor)
    numbered, count = label(scores > level, np.ones((3, 3)))
    if not count:
        return []
    peaks = np.atleast_1d(maximum(scores, numbered, np.arange(1, count + 1)))
    places = find_objects(numbered)
    found = []
    for at in np.argsort(-peaks, kind="stable")[:BOXES].tolist():
        down, across = places[at]
        found.append({
            "x1": across.start, "y1": down.start, "x2": across.stop, "y2": down.stop,
            "score": float(peaks[at]),
        })  # fmt: skip
    return found
