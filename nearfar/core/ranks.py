"""Ranks of numbers. SciPy's statistics have them too, but take two seconds to import."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def ranks(x: Any) -> npt.NDArray[np.float64]:
    """Rank numbers from 1, the least first; equal ones share the mean of their ranks.

    Args:
        x: (n,) numbers.

    Returns:
        (n,) ranks.
    """
    _, place, counts = np.unique(np.asarray(x), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    mean: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return mean


def spearman(one: Any, other: Any) -> float:
    """Correlate the ranks of two lists of numbers; 0 where all of one are equal.

    Args:
        one, other: (n,) numbers.

    Returns:
        From -1 to 1.
    """
    first, second = (ranks(x) - (len(x) + 1) / 2 for x in (one, other))
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size else 0.0
