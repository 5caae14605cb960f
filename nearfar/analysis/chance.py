"""What a ranking at random gives, beside which a figure of a ranking says something."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def chance_precision(hits: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Give the average precision of rankings at random, on average over all of them.

    Args:
        hits: (n,) how many of each ranking's items are right, one at least.
        counts: (n,) how many items each ranking has.

    Returns:
        (n,) between 0 and 1.

    Source:
        Bestgen 2015, "Exact expected average precision of the random baseline for system evaluation".
    """
    share = np.where(counts > 1, (hits - 1) / np.maximum(counts - 1, 1), 1.0)
    harmonic = np.cumsum(1 / np.arange(1, counts.max(initial=1) + 1))[counts - 1] / counts
    return np.asarray(share + harmonic * (1 - share), np.float64)
