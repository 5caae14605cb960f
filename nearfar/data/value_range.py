"""Finds the one range of values that a collection of images of more than 8 bits uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import BadImage
from ..images import decode
from ..images.value_range import Range, Seen, find, see
from .crops import Crops
from .source import ArraySource, Source

SAMPLE = 64  # images looked at


def see_sample(source: Source, *, max_pixels: int) -> list[Seen]:
    """Look at the values of a sample of a collection.

    Args:
        source: the images.
        max_pixels: the most pixels allowed in one.

    Returns:
        What was seen of those that have more than 8 bits, of up to 64 images spread evenly; bad ones are
        passed over.
    """
    if isinstance(source, Crops):
        source = source.photos
    if isinstance(source, ArraySource) and source.pixels.dtype == np.uint8:
        return []
    found = []
    for row in np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(np.int64)):
        try:
            data = source.read(int(row))
            if isinstance(data, np.ndarray):
                seen = None if data.dtype == np.uint8 else see(data)
            else:
                seen = decode.see(data, max_pixels=max_pixels)
        except BadImage:
            continue
        if seen is not None:
            found.append(seen)
    return found


def find_range(
    source: Source, *, max_pixels: int, percentiles: Sequence[float] | None = None
) -> Range | None:
    """Find the range of a collection.

    Args:
        source, max_pixels: as in `see_sample`.
        percentiles: as in `images.value_range.find`.

    Returns:
        The values that become 0 and 255, or None where all images of the sample have 8 bits.
    """
    seen = see_sample(source, max_pixels=max_pixels)
    return find(seen, percentiles) if seen else None
