"""The difference of two classifiers on the same test images, with a paired interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import rng
from ..core.intervals import LEVEL, RESAMPLES
from ..features.probes import Rows


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

    @property
    def outcome(self) -> str:
        """Say "better" or "worse" where both interval and exact test (at 5 %) do, else "no different".

        Of a few images the bootstrap is too narrow: where they all agree it has no width.
        """
        if self.p < 1 - LEVEL and (self.low > 0 or self.high < 0):
            return "better" if self.low > 0 else "worse"
        return "no different"


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
    from scipy.special import bdtr

    mine, yours, count = first == truth, second == truth, len(truth)
    won, lost = int((mine & ~yours).sum()), int((~mine & yours).sum())
    p = min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5)))
    # To draw images with replacement is to draw how many of each of three kinds there are.
    kinds = np.array([won, lost, count - won - lost]) / count
    draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "paired bootstrap")))
    drawn = draws.multinomial(count, kinds, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference((won - lost) / count, float(low), float(high), won, lost, p)
