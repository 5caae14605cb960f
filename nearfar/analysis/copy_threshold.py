"""Measures how much copies of a collection's images differ, and chooses by it what counts as a near copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core import progress, rng
from ..core.text import counted
from ..images.decode import Pixels
from . import planted
from .difference import differences
from .duplicates import LEAST_FIT, MIN_SIMILARITY, Collection
from .structure import fits, structure

PLANTED = 12  # images that copies are made of
LEAST = 0.6  # the lowest similarity that is chosen; one small defect on a board leaves less
MARGIN = 0.15  # by which 19 in 20 of the planted copies are above the threshold, where it is not at a bound


@dataclass(frozen=True)
class CopyThreshold:
    """From which similarity two images are near copies, and how well that is known.

    Attributes:
        min_similarity: the threshold.
        planted, found: copies that were made of the collection's images, and those at or above the threshold.
        others, mistaken: pairs of its images drawn at random, and those at or above the threshold.
    """

    min_similarity: float
    planted: int
    found: int
    others: int
    mistaken: int

    def __str__(self) -> str:
        """Say it in a sentence."""
        if not self.planted:
            return f"Near copies are at least {self.min_similarity:.2f} similar."
        return (
            f"Near copies are at least {self.min_similarity:.2f} similar: that finds {self.found:,} of "
            f"{counted(self.planted, 'copy')} made of these images for the purpose (resized, saved again, "
            f"cropped, mirrored), and {self.mistaken:,} of {self.others:,} pairs drawn at random."
        )


def calibrate(images: Collection, min_similarity: float | None = None, seed: int = 0) -> CopyThreshold:
    """Measure how much copies of a collection's images differ, and choose the threshold by it.

    Args:
        images: n images.
        min_similarity: the threshold, if it is given; it is measured all the same.
        seed: random seed.

    Returns:
        The threshold, between `LEAST` and `MIN_SIMILARITY`: 19 in 20 of the planted copies are well above it,
        or it is `LEAST`.
    """
    progress.stage("measuring how much copies differ")
    drawn = rng.permutation(rng.fold(seed, "planted copies"), len(images))[: 4 * PLANTED]
    read = images.originals or images.small
    own = [(row, x) for row, x in zip(drawn.tolist(), read(drawn), strict=True) if x is not None][:PLANTED]
    pairs = [(x, copy) for row, x in own for copy in planted.copies(x, rng.fold(seed, row))]
    values = _values(pairs)
    count = len(own)
    apart = [
        (own[at], own[(at + step) % count]) for at in range(count) for step in (1, 2, 3) if 2 * step < count
    ]
    others = [(x, y) for (i, x), (j, y) in apart if not images.digests[i] == images.digests[j] != ""]
    if min_similarity is None:
        least = float(np.quantile(values, 0.05)) - MARGIN if len(values) else MIN_SIMILARITY
        min_similarity = round(min(max(least, LEAST), MIN_SIMILARITY), 3)
    return CopyThreshold(
        min_similarity,
        len(values),
        int((values >= min_similarity).sum()),
        len(others),
        int((_values(others) >= min_similarity).sum()),
    )


def _values(pairs: Sequence[tuple[Pixels, Pixels]]) -> npt.NDArray[np.float32]:
    """Compare pictures that belong to no collection."""
    if not pairs:
        return np.empty(0, np.float32)
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    known = structure(lambda rows: [[*first, *second][row] for row in rows], 2 * len(pairs))
    ways = fits(known[: len(pairs)], known[len(pairs) :])
    found = (1 - differences(first, second, ways)).clip(0, 1)
    return np.where(ways.score[:, 0].numpy() < LEAST_FIT, np.float32(0), found)
