"""Finds clips of sound that a collection holds more than once, by their samples.

Two clips are laid one upon the other at every shift in time, and what counts is their greatest correlation: 1
for copies that are louder, later or upside down. Clips that merely sound alike, such as a word said twice by
one speaker, do not correlate sample by sample. Clips played at another speed are not found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from .cells import near_rows
from .duplicates import CANDIDATES, centred

MIN_SIMILARITY = 0.95  # a word said twice by one speaker reaches 0.93
KEPT = 64  # clips in memory

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SoundThreshold:
    """From which correlation two clips are near copies."""

    min_similarity: float = MIN_SIMILARITY

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"Near copies correlate by at least {self.min_similarity:.2f}, sample by sample at the best "
            "shift, which finds clips that are louder, later, saved again or cut a little, at the same speed."
        )


def correlation(a: Samples, b: Samples) -> float:
    """Compare two clips at their best shift.

    Args:
        a, b: (n,) and (m,) samples at one rate.

    Returns:
        From 0 to 1; 0 if one is silent.
    """
    size = 1 << (len(a) + len(b) - 1).bit_length()
    level = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if not level:
        return 0.0
    both = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    return min(1.0, float(np.abs(both).max()) / level)


class Clips:
    """n clips, which `duplicates.duplicate_groups` compares as it does images.

    Attributes:
        x: (n, d) features, by which what is compared is chosen.
        digests: n texts, equal for equal bytes; "" for unknown.
        read: gives the samples of a row, at one rate; None where they are not at hand.
    """

    def __init__(self, x: Vectors, digests: Sequence[str], read: Callable[[int], Samples | None]) -> None:
        """Take what is known of them."""
        self.x, self.digests, self.read = x, digests, read

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.x)

    def some(self, rows: Rows) -> Self:
        """Take some of these, without their digests."""
        return type(self)(self.x[rows], [""] * len(rows), lambda row: self.read(int(rows[row])))

    def candidates(self, others: Self | None) -> tuple[Rows, Rows]:
        """Choose what is compared: each clip with those that are nearest by features.

        Args:
            others: the clips of the second of each pair; None for these.

        Returns:
            (p,) rows of these, and (p,) of the others.
        """
        base, own = (self, True) if others is None else (others, False)
        x, y = centred(self.x, None if own else base.x)
        near = near_rows(x, y, min(CANDIDATES, len(base) - own), exclude_self=own)
        a, b = np.arange(len(self)).repeat(near.shape[1]), near.reshape(-1)
        a, b = a[b >= 0], b[b >= 0]
        if own:
            a, b = np.minimum(a, b), np.maximum(a, b)
        a, b = np.unique(np.stack([a, b], axis=1), axis=0).T
        return a, b

    def similarity(self, other: Self, a: Rows, b: Rows) -> Vectors:
        """Correlate pairs.

        Args:
            other: the clips of the second of each pair.
            a, b: (p,) rows.

        Returns:
            (p,) from 0 to 1; 0 where a clip is not at hand.
        """
        one, two = lru_cache(KEPT)(self.read), lru_cache(KEPT)(other.read)
        found = np.zeros(len(a), np.float32)
        for at, (row, place) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
            mine, theirs = one(row), two(place)
            if mine is not None and theirs is not None:
                found[at] = correlation(mine, theirs)
        return found
