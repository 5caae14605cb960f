"""Computes a classifier's accuracy with an interval, by class, and its confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.intervals import RESAMPLES, ends, resampling_weights, units_of, wilson


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95 % interval, each from 0 to 1."""

    accuracy: float
    low: float
    high: float

    @classmethod
    def of(cls, right: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64] | None = None) -> Accuracy:
        """Count right answers, one at least; the interval is over images (Wilson), or groups (bootstrap).

        Where all or none are right, Wilson's is taken over groups too, which is never a point.

        Args:
            right: (n,).
            groups: (n,) numbers of the groups that images belong to, such as patients; or None.
        """
        hits, count = int(right.sum()), len(right)
        if (units := units_of(groups)) is None:
            return cls(hits / count, *wilson(hits, count))
        if hits in (0, count):  # all resamples say the same, however few groups there are
            number = int(units.max()) + 1
            return cls(hits / count, *wilson(number if hits else 0, number))
        weights = resampling_weights(count, RESAMPLES, rng.fold(0, "bootstrap of groups"), groups)
        return cls(hits / count, *ends(weights @ right / weights.sum(1)))


@dataclass(frozen=True)
class ClassScore:
    """One class: its test images, its recall and its precision, each from 0 to 1."""

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Score:
    """How well one classifier did on the test images.

    Attributes:
        accuracy: share of right answers, from 0 to 1.
        low, high: the 95 % interval of the accuracy, over test images (Wilson), or their groups (bootstrap).
        per_class: one entry a class; recall is None without test images, precision where no answer names it.
        confusion: (classes, classes) int64 counts; row the true class, column the answer.
        chosen: what was chosen on the validation images, such as k and temperature.
    """

    accuracy: float
    low: float
    high: float
    per_class: tuple[ClassScore, ...]
    confusion: npt.NDArray[np.int64]
    chosen: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Write the score in plain values."""
        return {
            "accuracy": self.accuracy,
            "low": self.low,
            "high": self.high,
            "chosen": dict(self.chosen),
            "per_class": {
                item.name: {"images": item.images, "recall": item.recall, "precision": item.precision}
                for item in self.per_class
            },
            "confusion": self.confusion.tolist(),
        }


def score(
    truth: npt.NDArray[np.int64],
    answers: npt.NDArray[np.int64],
    classes: Sequence[str],
    chosen: Mapping[str, Any],
    groups: npt.NDArray[np.int64] | None = None,
) -> Score:
    """Score answers against the truth.

    Args:
        truth: (n,) class numbers, n at least 1.
        answers: (n,) class numbers.
        classes: the names that the numbers point to.
        chosen: how the answers were made.
        groups: (n,) numbers of the groups that images belong to, over which the interval then is; or None.

    Returns:
        The score.
    """
    width = len(classes)
    confusion = np.bincount(truth * width + answers, minlength=width * width).reshape(width, width)
    right = confusion.diagonal()
    there, answered = confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = tuple(
        ClassScore(
            name=name,
            images=int(there[k]),
            recall=float(right[k] / there[k]) if there[k] else None,
            precision=float(right[k] / answered[k]) if answered[k] else None,
        )
        for k, name in enumerate(classes)
    )
    whole = Accuracy.of(truth == answers, groups)
    return Score(whole.accuracy, whole.low, whole.high, per_class, confusion, dict(chosen))


def most_confused(score: Score, count: int = 5) -> list[tuple[str, str, int]]:
    """List the pairs of classes most often mistaken, as (true class, answer, images).

    Args:
        score: from `score`.
        count: how many at most.
    """
    wrong = score.confusion.copy()
    np.fill_diagonal(wrong, 0)
    names = [item.name for item in score.per_class]
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    return [
        (names[row], names[column], int(wrong[row, column])) for row, column in pairs if wrong[row, column]
    ]
