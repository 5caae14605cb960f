"""The difference of two classifiers on the same test images, with a paired interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import rng
from ..core.intervals import LEVEL, RESAMPLES, ends, resampling_weights, sign_test, units_of
from ..features.probes import Rows


@dataclass(frozen=True)
class Difference:
    """The difference of two classifiers on the same images.

    Attributes:
        difference: accuracy of the first minus that of the second, from -1 to 1.
        low, high: its 95 % paired bootstrap interval, over test images.
        first_only, second_only: images that only the one, and only the other, got right.
        p: McNemar's exact test: the probability of so uneven a split of those, if both are equally good; of
            groups the test of their signs.
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


def compare(truth: Rows, first: Rows, second: Rows, seed: int, groups: Rows | None = None) -> Difference:
    """Compare two rows of answers.

    Args:
        truth: (n,) class numbers.
        first, second: (n,) class numbers, the answers.
        seed: names the resamples.
        groups: (n,) numbers of the groups that images belong to, such as patients, which are then drawn and
            tested whole; or None.

    Returns:
        The difference.

    Source:
        McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
        percentages", in the exact form, a binomial test. Bootstrap: Efron and Tibshirani 1993, section 13.3.
    """
    from scipy.special import bdtr

    mine, yours, count = first == truth, second == truth, len(truth)
    won, lost = int((mine & ~yours).sum()), int((~mine & yours).sum())
    if (units := units_of(groups)) is not None:
        apart = mine.astype(np.float64) - yours
        weights = resampling_weights(count, RESAMPLES, rng.fold(seed, "paired bootstrap"), groups)
        low, high = ends(weights @ apart / weights.sum(1))
        sums = np.bincount(units, apart).astype(np.float64)
        p = sign_test(sums, rng.fold(seed, "signs"))
        return Difference((won - lost) / count, low, high, won, lost, p)
    p = min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5)))
    # To draw images with replacement is to draw how many of each of three kinds there are.
    more, fewer = max(won, lost), min(won, lost)  # so that the interval of "b less a" mirrors "a less b"
    kinds = np.array([more, fewer, count - won - lost]) / count
    draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "paired bootstrap")))
    drawn = draws.multinomial(count, kinds, RESAMPLES)
    low, high = ends((drawn[:, 0] - drawn[:, 1]) / count)
    if won < lost:
        low, high = -high, -low
    return Difference((won - lost) / count, low, high, won, lost, p)
