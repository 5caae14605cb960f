"""How sure a share is: its interval."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
SHARE = 0.95  # of the resamples that lie within the interval


def interval(right: int, count: int, key: int) -> tuple[float, float]:
    """Give the percentile bootstrap interval of an accuracy.

    To draw `count` images with replacement and count the right answers among them is to draw from a
    binomial distribution, so that is what is drawn, `RESAMPLES` times.

    Args:
        right: right answers.
        count: test images, at least 1.
        key: from `rng.fold`.

    Returns:
        The lower and the upper end, from 0 to 1.

    Source:
        Efron and Tibshirani 1993, "An introduction to the bootstrap", section 13.3.
    """
    draws = np.random.Generator(np.random.Philox(key=key)).binomial(count, right / count, RESAMPLES) / count
    low, high = np.quantile(draws, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)
