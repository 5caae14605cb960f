"""Says in a sentence what the encoder is better than, and what it is not, on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..features.probes import Rows
from .differences import Difference, compare
from .known_row import COMBINED

BASELINES = {
    "pixels": "raw pixels",
    "pca": "principal components",
    "colours": "a colour histogram",
    "patches": "k-means patches",
    "mfcc": "the statistics of MFCC",
    "mfcc_course": "the course of MFCC",
    "untrained": "an untrained network",
    "known": "the known encoder",
    COMBINED: "both together",
    "scratch": "training from scratch",
}
"""What a baseline is called in a sentence."""

WORDS = {"better": "better than", "worse": "worse than", "no different": "no different from"}


@dataclass(frozen=True)
class BaselineComparison:
    """The encoder and one baseline, under one classifier, on the same test images."""

    baseline: str
    difference: Difference  # the encoder's accuracy minus the baseline's

    @property
    def outcome(self) -> str:
        """Say "better", "worse" or "no different", as `Difference.outcome` does."""
        return self.difference.outcome

    def words(self, unit: str = " points") -> str:
        """Write it as "better than an untrained network by 4.8 points (2.9 to 6.7)"."""
        found = self.difference
        sign = -1 if self.outcome == "worse" else 1
        middle, low, high = (_points(sign * value) for value in (found.difference, found.low, found.high))
        low, high = (high, low) if sign < 0 else (low, high)
        start = f"{WORDS[self.outcome]} {BASELINES.get(self.baseline, self.baseline)}"
        if self.outcome == "no different" and (found.low > 0 or found.high < 0):
            return f"{start} ({middle}{unit}, too few to tell: p = {found.p:.2g})"
        if self.outcome == "no different":
            return f"{start} ({low} to {high}{unit})"
        return f"{start} by {middle}{unit} ({low} to {high})"

    def to_json(self) -> dict[str, Any]:
        """Write it in plain values, with its words."""
        return {
            "baseline": self.baseline,
            "outcome": self.outcome,
            "words": self.words(),
            **vars(self.difference),
        }


@dataclass(frozen=True)
class BaselineSummary:
    """The encoder against every baseline, under one classifier.

    Attributes:
        title: what the classifier is called.
        comparisons: one a baseline, the strongest baseline first.
    """

    title: str
    comparisons: Sequence[BaselineComparison]

    def __str__(self) -> str:
        """Name the untrained network, and the strongest baselines that are not and that are beaten."""
        others = [item for item in self.comparisons if item.baseline != "untrained"]
        shown = [item for item in self.comparisons if item.baseline == "untrained"]
        shown += [item for item in others if item.outcome != "better"][:1]
        shown += [item for item in others if item.outcome == "better"][:1]
        parts = [item.words("" if number else " points") for number, item in enumerate(shown)]
        return f"{self.title}: {'; '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Write the sentence and every comparison in plain values."""
        return {
            "title": self.title,
            "sentence": str(self),
            "against": [item.to_json() for item in self.comparisons],
        }


def summarise(
    truth: Rows,
    answers: Mapping[str, Mapping[str, Rows]],
    titles: Mapping[str, str],
    seed: int,
    groups: Rows | None = None,
) -> dict[str, BaselineSummary]:
    """Compare the encoder with its baselines.

    Args:
        truth: (n,) class numbers of the test images.
        answers: (n,) class numbers, by classifier and feature set; one of a feature set is "encoder".
        titles: of the classifiers that are asked about.
        seed: names the resamples.
        groups: (n,) numbers of the groups that images belong to, or None.

    Returns:
        A summary a classifier; none where there is no baseline beside chance.
    """
    made = {}
    for classifier, title in titles.items():
        rows = answers.get(classifier, {})
        found = [
            BaselineComparison(name, compare(truth, rows["encoder"], own, seed, groups))
            for name, own in rows.items()
            if name not in ("encoder", "chance", COMBINED)
        ]
        if found:
            made[classifier] = BaselineSummary(
                title, sorted(found, key=lambda item: item.difference.difference)
            )
    return made


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # no "-0.0"
