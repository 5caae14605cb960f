"""Robustness: the linear classifier's accuracy on corrupted test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.text import columns, percent
from ..features.probes import FeatureProbe, ProbeOutputs, Rows
from .corrupted import CorruptedAccuracy, corrupted_accuracy
from .part import EvaluationPart
from .result import FEATURE_SETS

WORST = 3  # corruptions that the table names


@dataclass(frozen=True)
class Robustness(EvaluationPart):
    """One `CorruptedAccuracy` a feature set."""

    images_only = True

    rows: Mapping[str, CorruptedAccuracy]

    @classmethod
    def measure(cls, probe: FeatureProbe, outputs: ProbeOutputs, truth: Rows, seed: int) -> CorruptedAccuracy:
        """Measure one feature set, by its linear classifier on a sample of the test images."""
        return corrupted_accuracy(probe.predict_linear, outputs.dataset, truth, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Write the figures in plain values."""
        return {name: item.to_json() for name, item in self.rows.items()}

    def lines(self) -> list[str]:
        """Write a row a feature set, and the worst corruptions for the encoder; the rest is in the JSON."""
        cells = [
            [FEATURE_SETS.get(name, name), percent(item.clean), percent(item.mean), percent(item.relative)]
            for name, item in self.rows.items()
        ]
        means = {name: float(np.mean(shares)) for name, shares in self.rows["encoder"].accuracy.items()}
        worst = sorted(means, key=lambda name: means[name])[:WORST]
        listed = ", ".join(f"{name.replace('_', ' ')} ({percent(means[name])})" for name in worst)
        heads = ["corrupted images (linear)", "clean", "corrupted", "relative"]
        return [*columns(heads, cells), f"worst corruptions for the encoder: {listed}"]
