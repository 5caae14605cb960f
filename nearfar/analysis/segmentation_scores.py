"""Measures how well predicted masks agree with true ones: intersection over union, by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.intervals import RESAMPLES, ends, resampling_weights

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentationScores:
    """How well masks agree; 0 to 1.

    Attributes:
        miou: mean over classes of the intersection over the union, both summed over all images. A class that
            neither a true nor a predicted pixel has is left out.
        low, high: the ends of its 95 % bootstrap interval over images.
        image_miou: mean over images of the same figure of a single image.
        accuracy: share of pixels that are right.
        per_class: intersection over union of each class; NaN for one that is left out.
    """

    miou: float
    low: float
    high: float
    image_miou: float
    accuracy: float
    per_class: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Give the figures in plain values; a class that is left out has null."""
        own = {name: None if np.isnan(value) else value for name, value in self.per_class.items()}
        names = ("miou", "low", "high", "image_miou", "accuracy")
        return {**{name: getattr(self, name) for name in names}, "per_class": own}


def confusion(truth: Mask, predicted: Mask, classes: int, ignored: int) -> Counts:
    """Count the pixels of each true and predicted class.

    Args:
        truth, predicted: (h, w) class numbers.
        classes: C.
        ignored: a true number whose pixels do not count.

    Returns:
        (C, C) int64: true classes down, predicted across.
    """
    kept = truth != ignored
    both = truth[kept].astype(np.int64) * classes + predicted[kept]
    return np.bincount(both, minlength=classes * classes).reshape(classes, classes)


def iou(counts: Counts) -> npt.NDArray[np.float64]:
    """Compute the intersection over the union of each class.

    Args:
        counts: (..., C, C), from `confusion` or sums of such.

    Returns:
        (..., C); NaN where the union is empty.
    """
    both = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - both
    return np.divide(both, union, out=np.full(both.shape, np.nan), where=union > 0)


def scores(
    counts: Counts, classes: Sequence[str], seed: int = 0, groups: npt.NDArray[np.int64] | None = None
) -> SegmentationScores:
    """Compute the figures of some images.

    Args:
        counts: (n, C, C), of each image.
        classes: C names.
        seed: random seed of the resamples.
        groups: (n,) numbers of the groups that images belong to, which are drawn whole; None without groups.

    Returns:
        The figures.

    Source:
        Everingham et al. 2015, "The PASCAL visual object classes challenge: a retrospective", section 4.3.
    """
    n, number = len(counts), len(classes)
    total = counts.sum(0)
    if not total.any():  # of a few held-out images, whose pixels are all ignored
        return SegmentationScores(0.0, 0.0, 0.0, 0.0, 0.0, dict.fromkeys(classes, np.nan))
    own = iou(total)
    alone = iou(counts)
    key = rng.fold(seed, "bootstrap of images")
    weights = resampling_weights(n, RESAMPLES, key, groups).astype(np.int64)
    drawn = (weights @ counts.reshape(n, -1)).reshape(RESAMPLES, number, number)
    again = _mean(iou(drawn))
    low, high = ends(again[~np.isnan(again)])  # without resamples of images whose pixels are all ignored
    return SegmentationScores(
        miou=float(_mean(own)),
        low=low,
        high=high,
        image_miou=float(np.nanmean(_mean(alone))),
        accuracy=float(np.trace(total) / max(1, total.sum())),
        per_class=dict(zip(classes, own.tolist(), strict=True)),
    )


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average over classes, those that are there; NaN where there is none."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    total = np.where(there, values, 0).sum(-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
