"""Robustness as a part of an evaluation: the linear classifier's answers on spoilt test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.text import columns, percent
from ..features.probes import Reader, Rows, Seen
from .robustness import Robustness, robustness

WORST = 3  # corruptions that the table names


@dataclass(frozen=True)
class Spoilt:
    """One `Robustness` a way of seeing: encoder, pixels, untrained."""

    rows: Mapping[str, Robustness]

    def to_json(self) -> dict[str, Any]:
        """Write the figures in plain values."""
        return {name: item.to_json() for name, item in self.rows.items()}

    def lines(self) -> list[str]:
        """Write a row a way of seeing, and what harms the encoder most; the rest is in the JSON."""
        cells = [
            [name, percent(item.clean), percent(item.mean), percent(item.relative)]
            for name, item in self.rows.items()
        ]
        means = {name: float(np.mean(shares)) for name, shares in self.rows["encoder"].accuracy.items()}
        worst = sorted(means, key=lambda name: means[name])[:WORST]
        harm = ", ".join(f"{name.replace('_', ' ')} ({percent(means[name])})" for name in worst)
        heads = ["spoilt images (linear)", "unspoilt", "spoilt", "kept"]
        return [*columns(heads, cells), f"what harms the encoder most: {harm}"]


def measure(reader: Reader, seen: Seen, truth: Rows, seed: int) -> Robustness:
    """Measure one way of seeing, by its linear classifier on a sample of the test images."""
    return robustness(reader.name, seen.dataset, truth, seed=seed)
