"""The colours of classes of pixels, in sheets and on the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

COLOURS = np.array(
    [(127, 127, 127), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
     (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128)],
    np.uint8,
)  # fmt: skip


def coloured(numbers: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Give each number its colour; 0, often the background, has none of its own.

    Args:
        numbers: of any shape, of classes or values of a mask, from 0 on.

    Returns:
        The same shape and a dimension of 3 behind.
    """
    found: npt.NDArray[np.uint8] = COLOURS[1 + (numbers.astype(np.int64) - 1) % (len(COLOURS) - 1)]
    return found
