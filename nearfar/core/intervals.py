"""Confidence intervals: of a share, and by bootstrap, over examples or over groups of them."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
LEVEL = 0.95  # of every interval
FEW_GROUPS = 10  # below so many an interval over groups is too narrow
ALL_SIGNS, SIGNS = 13, 10_000  # groups up to which all signs are tried, and how many are drawn for more


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


def units_of(groups: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64] | None:
    """Number the groups over which intervals and tests are.

    Args:
        groups: (n,) numbers of the groups that examples belong to, or None.

    Returns:
        (n,) from 0 on; None where examples themselves are drawn: where there are no groups, where each
        example is its own, and where all are of one, of which there is no other to draw.
    """
    if groups is None:
        return None
    units = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return units if 1 < int(units.max()) + 1 < len(units) else None


def few_groups(groups: npt.NDArray[np.int64] | None, noun: str) -> str:
    """Say in a sentence what intervals over few groups do not tell; nothing where there are enough or none.

    Args:
        groups: (n,) numbers of the groups of test examples, or None.
        noun: the word for these examples, such as clips.
    """
    number = 0 if groups is None else len(np.unique(groups))
    if number == 1:
        return (
            f"all test {noun} are of one group: intervals are over {noun}, and tell nothing of other groups"
        )
    if 1 < number < FEW_GROUPS:
        return f"the test {noun} are of {number} groups: intervals over so few are too narrow"
    return ""


def resampling_weights(
    count: int, times: int, key: int, groups: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float64]:
    """Say how often each example comes in each bootstrap resample.

    Examples of a group, such as slices of a patient's scan, are alike: drawn one by one, they would make an
    interval too narrow, so groups are drawn whole.

    Args:
        count: n examples.
        times: resamples.
        key: from `rng.fold`.
        groups: (n,) numbers of the groups that examples belong to; None if each stands alone.

    Returns:
        (times, n); with groups the sum differs from resample to resample.

    Source:
        Davison and Hinkley 1997, "Bootstrap methods and their application", section 3.8.
    """
    generator = np.random.Generator(np.random.Philox(key=key))
    units = units_of(groups)
    number = count if units is None else int(units.max()) + 1
    drawn = generator.multinomial(number, np.full(number, 1 / number), times).astype(np.float64)
    return drawn if units is None else drawn[:, units]


def ends(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Give the ends between which 95 % of a figure's values lie, one value a resample."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sign_test(sums: npt.NDArray[np.float64], key: int) -> float:
    """Test whether sums of groups lean to one side: how often do random signs give a total as far from 0?

    With groups of one image, of which each is right or wrong, it is McNemar's exact test.

    Args:
        sums: (k,) of each group.
        key: from `rng.fold`, for the signs that are drawn where there are too many to try all.

    Returns:
        The probability, above 0, up to 1.

    Source:
        Fisher 1935, "The design of experiments", section 21, on groups.
    """
    some = sums[sums != 0]
    if len(some) <= ALL_SIGNS:
        signs = 1 - 2 * ((np.arange(2 ** len(some))[:, None] >> np.arange(len(some))) & 1)
    else:
        drawn = np.random.Generator(np.random.Philox(key=key)).integers(0, 2, (SIGNS, len(some)))
        signs = np.concatenate([np.ones((1, len(some)), np.int64), 1 - 2 * drawn])
    total = abs(float(some.sum()))
    return float((np.abs(signs @ some) >= total - 1e-9).mean())
