"""Confidence intervals: of a share, and the settings of bootstrap intervals."""

from __future__ import annotations

RESAMPLES = 1000
LEVEL = 0.95  # of every interval


def wilson(right: int, count: int) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a share.

    Args:
        right: answers that are right, 0 to `count`.
        count: answers in all, at least 1.

    Returns:
        The lower and the upper end, from 0 to 1; never a point, also where all or none are right.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest

    found = binomtest(right, count).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)
