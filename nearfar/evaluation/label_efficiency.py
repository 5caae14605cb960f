"""Label efficiency: how many labels the baselines need for the accuracy of the encoder, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.text import counted, percent
from .summary import BASELINES

AccuracyCurve = Mapping[int, Sequence[float]]  # labels -> one accuracy a draw


@dataclass(frozen=True)
class LabelEfficiency:
    """What the encoder reaches with some labels, and how many the others need for the same.

    Attributes:
        labels, size: how many labels, and what that number is called.
        accuracy: the encoder's, the mean over draws.
        helped: whether it is above (True) or below (False) the best of the others with as many labels, the
            middle 95 % of draws agreeing; None if they do not.
        needed: labels that each of the others needs; None where all there are do not suffice.
        most: all labels there are.
    """

    labels: int
    size: str
    accuracy: float
    helped: bool | None
    needed: Mapping[str, float | None]
    most: int

    def to_json(self) -> dict[str, Any]:
        """Write everything in plain values, with the sentence."""
        return {**vars(self), "needed": dict(self.needed), "sentence": str(self)}

    def __str__(self) -> str:
        """Answer in one sentence."""
        words = {True: "Yes", False: "No", None: "The draws do not decide"}[self.helped]
        needs = []
        for name, labels in self.needed.items():
            need = f"more than all {self.most:,}"
            if labels is not None:
                need = f"about {two_digits(labels)} ({two_digits(labels / self.labels)} times as many)"
            needs.append(f"{BASELINES.get(name, name)} would need {need}")
        if not needs:
            needs = ["there is no baseline to compare with"]
        reach = (
            f"with {counted(self.labels, 'label')} ({self.size}) the encoder reaches {percent(self.accuracy)}"
        )
        return f"Did self-supervision help? {words}: {reach}; {', '.join(needs)}."


def two_digits(number: float) -> str:
    """Round to two digits, which is as much as the curves tell; "1,200", "12", "1.2"."""
    digits = 1 - math.floor(math.log10(number))
    return f"{round(number, digits):,.{max(0, digits)}f}"


def label_efficiency(curves: Mapping[str, AccuracyCurve], at: int, size: str) -> LabelEfficiency:
    """Compare the curve called "encoder" with the others.

    Args:
        curves: accuracies by feature set and number of labels; draw k uses the same images in all.
        at: the number of labels at which to compare; each curve has it, or is compared by its own points.
        size: what that number is called.

    Returns:
        The comparison.
    """
    own = curves["encoder"]
    others = {name: curve for name, curve in curves.items() if name != "encoder"}
    target = float(np.mean(own[at]))
    rivals = [curve[at] for curve in others.values() if at in curve]
    helped: bool | None = None
    if rivals:
        best = max(rivals, key=lambda draws: float(np.mean(draws)))
        shared = min(len(best), len(own[at]))
        gap = np.subtract(own[at][:shared], best[:shared])
        low, high = np.quantile(gap, [0.025, 0.975])
        helped = True if low > 0 else False if high < 0 else None
    needed = {name: labels_needed(curve, target) for name, curve in others.items()}
    return LabelEfficiency(at, size, target, helped, needed, max(own))


def labels_needed(curve: AccuracyCurve, target: float) -> float | None:
    """Read off a curve at how many labels its mean reaches an accuracy, straight in the labels' logarithm.

    Args:
        curve: accuracies by number of labels.
        target: the accuracy.

    Returns:
        The number, no less than the curve's first; None if it is never reached.
    """
    before: tuple[int, float] | None = None
    for labels in sorted(curve):
        share = float(np.mean(curve[labels]))
        if share >= target:
            if before is None:
                return float(labels)
            part = (target - before[1]) / (share - before[1])
            return math.exp(math.log(before[0]) + part * math.log(labels / before[0]))
        before = labels, share
    return None
