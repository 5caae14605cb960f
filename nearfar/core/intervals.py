"""Confidence intervals: of a share, and the settings of bootstrap intervals."""

from __future__ import annotations

import math
from statistics import NormalDist

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
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, whole = right / count, count + z**2
    middle = (right + z**2 / 2) / whole
    half = z / whole * math.sqrt(right * (1 - share) + z**2 / 4)
    return (middle - half if right else 0.0), (middle + half if right < count else 1.0)
