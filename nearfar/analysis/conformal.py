"""A threshold with a guaranteed false-positive rate, from the scores of examples that were held out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-9  # 0.29 x 100 is 28.999... in floating point


def rank(count: int, rate: float) -> int:
    """Tell which of the highest held-out scores is the threshold.

    Args:
        count: held-out scores.
        rate: share of new examples that may score above it, 0 to below 1.

    Returns:
        1 for the highest, 2 for the next, and so on; 0 where so few scores cannot guarantee that rate.
    """
    return int((count + 1) * rate + _ROUNDING)


def threshold(scores: npt.NDArray[Any], rate: float) -> float | None:
    """Choose the score that a new example exceeds with a chance of at most `rate`.

    The guarantee holds on average over held-out sets, if held-out and new examples could have come in any
    order.

    Args:
        scores: (m,) of held-out examples that nothing was fitted on.
        rate: the guaranteed rate, 0 to below 1.

    Returns:
        One of the scores; None where m is too small: below 1 / (m + 1) there is no guarantee.

    Source:
        Split conformal prediction: Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world".
    """
    place = rank(len(scores), rate)
    return float(np.sort(scores)[len(scores) - place]) if place else None


def least_count(rate: float) -> int:
    """Tell how many held-out scores can guarantee a rate.

    Args:
        rate: above 0; with less than 1e-15 the number is as for that.
    """
    return math.ceil(1 / max(rate, 1e-15) - _ROUNDING) - 1
