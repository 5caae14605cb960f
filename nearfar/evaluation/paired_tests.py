"""Paired tests: compares runs on the same test images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import rng
from ..core.intervals import LEVEL, RESAMPLES
from ..core.text import columns
from ..features.probes import Rows
from .result import CLASSIFIERS, Evaluation


@dataclass(frozen=True)
class Difference:
    """The difference of two classifiers on the same images.

    Attributes:
        difference: accuracy of the first minus that of the second, from -1 to 1.
        low, high: its 95 % paired bootstrap interval, over test images.
        first_only, second_only: images that only the one, and only the other, got right.
        p: McNemar's exact test: the probability of so uneven a split of those, if both are equally good.
    """

    difference: float
    low: float
    high: float
    first_only: int
    second_only: int
    p: float


def compare(truth: Rows, first: Rows, second: Rows, seed: int) -> Difference:
    """Compare two rows of answers.

    Args:
        truth: (n,) class numbers.
        first, second: (n,) class numbers, the answers.
        seed: names the resamples.

    Returns:
        The difference.

    Source:
        McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
        percentages", in the exact form, a binomial test. Bootstrap: Efron and Tibshirani 1993, section 13.3.
    """
    from scipy.stats import binomtest

    mine, yours, count = first == truth, second == truth, len(truth)
    won, lost = int((mine & ~yours).sum()), int((~mine & yours).sum())
    p = float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    # To draw images with replacement is to draw how many of each of three kinds there are.
    kinds = np.array([won, lost, count - won - lost]) / count
    draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "paired bootstrap")))
    drawn = draws.multinomial(count, kinds, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference((won - lost) / count, float(low), float(high), won, lost, p)


@dataclass(frozen=True)
class PairedEvaluations:
    """Several runs evaluated on the same images, and their differences in pairs.

    Attributes:
        runs: the names of the runs; none twice.
        evaluations: one a run.
        pairs: (first, second, classifier, difference), the runs by name.
    """

    runs: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    pairs: tuple[tuple[str, str, str, Difference], ...]

    def to_json(self) -> dict[str, Any]:
        """Write every evaluation and every comparison in plain values."""
        return {
            "runs": {name: item.to_json() for name, item in zip(self.runs, self.evaluations, strict=True)},
            "pairs": [
                {"first": first, "second": second, "classifier": classifier, **vars(item)}
                for first, second, classifier, item in self.pairs
            ],
        }

    def table(self) -> str:
        """Write each run's table, and then the differences."""
        lines = []
        for name, item in zip(self.runs, self.evaluations, strict=True):
            lines += [f"== {name}", item.table(), ""]
        cells = []
        for first, second, classifier, gap in self.pairs:
            points = f"{100 * gap.difference:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
            only = f"{gap.first_only:,} and {gap.second_only:,}"
            p = "below 0.0001" if gap.p < 1e-4 else f"{gap.p:.2g}"
            cells.append([f"{first} minus {second}", CLASSIFIERS[classifier], points, only, p])
        heads = ["on the same test images", "", "points (95 % interval)", "only one is right", "p (McNemar)"]
        width = max((len(row[0]) for row in cells), default=0) - 24
        heads[0] += " " * max(0, width)
        return "\n".join([*lines, *columns(heads, cells)])


def pair(runs: Sequence[str], evaluations: Sequence[Evaluation], seed: int) -> PairedEvaluations:
    """Compare each run with each of the later ones.

    Args:
        runs: what they are called.
        evaluations: theirs, of the same test images in the same order.
        seed: names the resamples.

    Returns:
        The evaluations and the comparisons.
    """
    found = []
    for (first, mine), (second, yours) in itertools.combinations(zip(runs, evaluations, strict=True), 2):
        for classifier in mine.answers:
            if any("encoder" not in each.answers.get(classifier, {}) for each in (mine, yours)):
                continue
            answers = mine.answers[classifier]["encoder"], yours.answers[classifier]["encoder"]
            found.append((first, second, classifier, compare(mine.truth, answers[0], answers[1], seed)))
    return PairedEvaluations(tuple(runs), tuple(evaluations), tuple(found))
