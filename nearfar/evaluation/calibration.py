"""Whether the linear classifier is right as often as it says: expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.text import columns, percent
from ..features.probes import Reader, Rows, Seen

BINS = 15


@dataclass(frozen=True)
class Bin:
    """The images whose likeliest class has a probability above `low` and up to `high`."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """Expected calibration error, the mean probability given to the answers, their accuracy; and the bins."""

    ece: float
    confidence: float
    accuracy: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Calibration:
    """One `Reliability` a way of seeing: encoder, pixels, untrained."""

    rows: Mapping[str, Reliability]

    def to_json(self) -> dict[str, Any]:
        """Write the figures and the reliability table in plain values."""
        return {
            name: {**vars(item), "bins": [vars(part) for part in item.bins]}
            for name, item in self.rows.items()
        }

    def lines(self) -> list[str]:
        """Write a row a way of seeing; the bins are in the JSON."""
        cells = [
            [name, percent(item.confidence), percent(item.accuracy), percent(item.ece)]
            for name, item in self.rows.items()
        ]
        return columns(["calibration (linear)", "says", "is right", "error (ECE)"], cells)


def measure(reader: Reader, seen: Seen, truth: Rows, seed: int) -> Reliability:
    """Measure one way of seeing, by its linear classifier's probabilities on the test images."""
    return reliability(seen.logits, truth)


def reliability(logits: torch.Tensor, truth: Rows) -> Reliability:
    """Sort answers by the probability they were given, into bins of equal width, and see how many are right.

    Args:
        logits: (n, classes) floats.
        truth: (n,) int64.

    Returns:
        The bins, and the mean over images of the gap between probability and accuracy in their bin.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", section 2.
    """
    top = torch.softmax(logits.cpu().double(), dim=1).max(dim=1)
    sure, right = top.values.numpy(), top.indices.numpy() == truth
    place = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    said = np.bincount(place, sure, BINS)
    got = np.bincount(place, right, BINS)
    bins = tuple(
        Bin(
            low=k / BINS,
            high=(k + 1) / BINS,
            images=int(images[k]),
            confidence=float(said[k] / images[k]) if images[k] else None,
            accuracy=float(got[k] / images[k]) if images[k] else None,
        )
        for k in range(BINS)
    )
    ece = float(np.abs(said - got).sum() / len(truth))
    return Reliability(ece, float(sure.mean()), float(right.mean()), bins)
