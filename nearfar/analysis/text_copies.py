"""Finds texts that a collection holds more than once, by their own words and not by their vectors.

Two texts are the same if their words are, whatever their case, points and blanks. Near copies share most of
their runs of three words (shingles): a word that differs costs three runs, so that short texts in which one
word differs are no copies. Which texts are compared is chosen by the least hashes of their runs.

Source: A. Z. Broder, On the resemblance and containment of documents, Compression and Complexity of Sequences
    1997 (resemblance). Least hashes in bands: J. Leskovec, A. Rajaraman, J. D. Ullman, Mining of Massive
    Datasets, section 3.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.words import words_of

RUN = 3  # words of a run
MIN_SIMILARITY = 0.7  # share of runs that near copies have in common, at least
BANDS, ROWS = 16, 2  # two texts of that share are missed in 2 of 100,000 cases
MOST = 10  # others of a band that a text is compared with

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two hashes become one

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class TextThreshold:
    """From which share of common runs two texts are near copies."""

    min_similarity: float = MIN_SIMILARITY

    def __str__(self) -> str:
        """Say it in a sentence."""
        share = f"{100 * self.min_similarity:.0f} %"
        return (
            "Texts are the same if their words are, whatever case and points; near copies share at least "
            f"{share} of all their runs of {RUN} words."
        )


class Texts:
    """n texts, which `duplicates.duplicate_groups` compares as it does images.

    Attributes:
        digests: n, equal for equal words.
        runs: of each the sorted hashes of its runs of words.
    """

    def __init__(self, digests: Sequence[str], runs: Sequence[Hashes]) -> None:
        """Take what `of` computes."""
        self.digests, self.runs = digests, runs

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Take texts.

        Args:
            texts: n of them.
        """
        digests, runs = [], []
        for text in texts:
            words = words_of(text) or [text.strip()]
            digests.append(hashlib.blake2b(" ".join(words).encode(), digest_size=16).hexdigest())
            found = {" ".join(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))}
            runs.append(np.array(sorted(_hash(run) for run in found), np.uint64))
        return cls(digests, runs)

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.digests)

    def some(self, rows: Rows) -> Self:
        """Take some of these texts, without their digests."""
        return type(self)([""] * len(rows), [self.runs[row] for row in rows.tolist()])

    def similarity(self, other: Texts, a: Rows, b: Rows) -> npt.NDArray[np.float32]:
        """Compare pairs: the share of their runs that both have.

        Args:
            other: the texts of the second of each pair.
            a, b: (p,) rows.

        Returns:
            (p,) from 0 to 1.
        """
        found = []
        for one, two in zip(a.tolist(), b.tolist(), strict=True):
            both = len(np.intersect1d(self.runs[one], other.runs[two], assume_unique=True))
            found.append(both / (len(self.runs[one]) + len(other.runs[two]) - both))
        return np.array(found, np.float32)

    @cached_property
    def bands(self) -> Hashes:
        """(n, bands): equal numbers in any one mean that two texts may be alike."""
        starts = np.cumsum([0, *(len(run) for run in self.runs[:-1])])
        flat = np.concatenate([np.empty(0, np.uint64), *self.runs])
        made = np.zeros((len(self), BANDS), np.uint64)
        for at in range(BANDS * ROWS if len(self) else 0):
            mixed = (flat ^ np.uint64(rng.fold(0, "least hashes", at))) * _SPREAD
            mixed ^= mixed >> np.uint64(29)
            made[:, at // ROWS] = made[:, at // ROWS] * _SPREAD + np.minimum.reduceat(mixed, starts)
        return made

    def candidates(self, others: Texts | None) -> tuple[Rows, Rows]:
        """Choose what is compared: texts with a band in common, each with a few others of a band.

        Args:
            others: the texts of the second of each pair; None for these.

        Returns:
            (p,) rows of these, and (p,) of `others`; each pair once.
        """
        base = self if others is None else others
        pairs = [np.empty((0, 2), np.int64)]
        for band in range(BANDS):
            mine, theirs = self.bands[:, band], base.bands[:, band]
            order = np.argsort(theirs, kind="stable")
            first = np.searchsorted(theirs[order], mine, "left")
            last = np.searchsorted(theirs[order], mine, "right")
            if others is None:  # only those behind it in its band
                place = np.empty(len(order), np.int64)
                place[order] = np.arange(len(order))
                first = place + 1
            for step in range(MOST):
                a = np.flatnonzero(first + step < last)
                pairs.append(np.stack([a, order[first[a] + step]], axis=1))
        found = np.concatenate(pairs)
        if others is None:
            found.sort(axis=1)
        a, b = np.unique(found, axis=0).T
        return a, b


def _hash(run: str) -> int:
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little")
