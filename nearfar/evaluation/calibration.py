"""Whether the linear classifier is right as often as it says: expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.text import columns, percent
from ..features.probes import FeatureProbe, ProbeOutputs, Rows
from .part import EvaluationPart
from .result import FEATURE_SETS

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
class Calibration(EvaluationPart):
    """One `Reliability` a feature set."""

    rows: Mapping[str, Reliability]

    @classmethod
    def measure(cls, probe: FeatureProbe, outputs: ProbeOutputs, truth: Rows, seed: int) -> Reliability:
        """Measure one feature set, by its linear classifier's probabilities on the test images."""
        return reliability(outputs.logits, truth)

    def to_json(self) -> dict[str, Any]:
        """Write the figures and the reliability table in plain values."""
        return {
            name: {**vars(item), "bins": [vars(each) for each in item.bins]}
            for name, item in self.rows.items()
        }

    def lines(self) -> list[str]:
        """Write a row a feature set; the bins are in the JSON."""
        cells = [
            [FEATURE_SETS.get(name, name), *map(percent, (item.confidence, item.accuracy, item.ece))]
            for name, item in self.rows.items()
        ]
        return columns(["calibration (linear)", "confidence", "accuracy", "error (ECE)"], cells)


def reliability(logits: torch.Tensor, truth: Rows) -> Reliability:
    """Sort answers by their probability into bins of equal width, and compare it with their accuracy.

    Args:
        logits: (n, classes) floats.
        truth: (n,) int64.

    Returns:
        The bins, and the mean over images of the gap between probability and accuracy in their bin.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", section 2.
    """
    top = torch.softmax(logits.cpu().double(), dim=1).max(dim=1)
    confidence, right = top.values.numpy(), top.indices.numpy() == truth
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    mass = np.bincount(place, confidence, BINS)
    hits = np.bincount(place, right, BINS)
    bins = tuple(
        Bin(
            low=k / BINS,
            high=(k + 1) / BINS,
            images=int(images[k]),
            confidence=float(mass[k] / images[k]) if images[k] else None,
            accuracy=float(hits[k] / images[k]) if images[k] else None,
        )
        for k in range(BINS)
    )
    ece = float(np.abs(mass - hits).sum() / len(truth))
    return Reliability(ece, float(confidence.mean()), float(right.mean()), bins)
