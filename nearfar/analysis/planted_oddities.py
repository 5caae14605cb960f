"""Tests whether features can tell odd images: a few images of one kind are planted among all others.

The kinds are classes, where labels are known. Else they are a few clusters of the features themselves, which
tell less: features that find these may still be too weak for what a person finds odd, and images of one kind
have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..features.knn import unit
from .anomalies import neighbour
from .anomaly_detectors import detector
from .clusters import kmeans

KINDS = 10  # classes that are planted, one after the other
CLUSTERS = 4  # so few that a cluster is not the half of a kind, whose other half would be like it
EACH = 4  # images of a kind that are planted: more may hide each other
AMONG = 2000  # others, at most
FIRST = 0.05  # share of the images, the most anomalous, among which a planted one counts as found
WEAK = 0.5  # share of planted images found below which features are too weak
LEAST = 40  # images and more that this can be tested on

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PlantedOddities:
    """How many planted images were found.

    Attributes:
        by: "labels" or "clusters".
        planted, found: images planted, and those among the most anomalous `share`.
        noun: the word for several examples, such as clips.
        share: of the images: `FIRST`, and more where that would be fewer than are planted.
    """

    by: str
    planted: int
    found: int
    noun: str = "images"
    share: float = FIRST

    @property
    def weak(self) -> bool | None:
        """Whether the features are too weak to find odd images by; None where that is not known."""
        return self.found < WEAK * self.planted if self.by == "labels" else None

    def to_json(self) -> dict[str, Any]:
        """Give the figures in plain values."""
        return {"by": self.by, "planted": self.planted, "found": self.found, "weak": self.weak}

    def __str__(self) -> str:
        """Say it in a sentence or two."""
        kind = "class" if self.by == "labels" else "cluster"
        what = (
            f"As a test, {EACH} {self.noun} of one {kind} were planted among all others, {kind} by {kind}: "
            f"{self.found:,} of {self.planted:,} are among the most anomalous {100 * self.share:.0f} %."
        )
        if self.weak:
            return f"{what} The encoder is too weak for odd {self.noun}; train it longer, or use a known one."
        if self.by == "labels":
            return what
        if self.found < WEAK * self.planted:
            return (
                f"{what} Either these {self.noun} are all of one kind, or the encoder is too weak to find "
                "odd ones; labels would tell which."
            )
        return f"{what} Clusters are the encoder's own kinds; only labels would tell whether it knows yours."


def plant_oddities(
    x: Vectors, labels: npt.NDArray[np.int64] | None = None, seed: int = 0, noun: str = "images"
) -> PlantedOddities | None:
    """Plant a few images of each kind among all others, and count those that score as anomalous.

    Args:
        x: (n, d) float32 features.
        labels: (n,) int64 class numbers, -1 for unknown; None if there are none.
        seed: random seed.
        noun: the word for several examples, such as clips.

    Returns:
        The figures; None where images or kinds are too few for the test.
    """
    by, kinds = "labels", labels
    if kinds is None or not _large(kinds, len(x)):
        if len(x) < LEAST:
            return None
        sample = rng.permutation(rng.fold(seed, "planted oddities"), len(x))[:AMONG]
        x = x[sample]
        by, kinds = "clusters", kmeans(unit(torch.from_numpy(x)).numpy(), CLUSTERS, seed, 1)
    planted = found = 0
    share = FIRST
    for kind in _large(kinds, len(x)):
        own, rest = (np.flatnonzero(some) for some in (kinds == kind, (kinds != kind) & (kinds >= 0)))
        own = own[rng.permutation(rng.fold(seed, "planted", kind), len(own))[:EACH]]
        rest = rest[rng.permutation(rng.fold(seed, "among", kind), len(rest))[:AMONG]]
        base = np.concatenate([rest, own])
        # Each is its own nearest, so that one more neighbour makes the others' k-th.
        scores = detector(x[base], k=neighbour(len(base)) + 1, at_zero=False)(x[base])
        first = np.argsort(-scores, kind="stable")[: max(EACH, round(FIRST * len(base)))]
        share = max(share, len(first) / len(base))
        planted, found = planted + EACH, found + int((first >= len(rest)).sum())
    return PlantedOddities(by, planted, found, noun, share) if planted else None


def _large(kinds: npt.NDArray[np.int64], count: int) -> list[int]:
    """Name the largest kinds that have enough images, and enough others beside them."""
    sizes = np.bincount(kinds[kinds >= 0]) if (kinds >= 0).any() else np.zeros(0, np.int64)
    order = np.argsort(-sizes, kind="stable")[:KINDS]
    total = int(sizes.sum())
    return [int(kind) for kind in order if sizes[kind] >= EACH and total - sizes[kind] >= LEAST - EACH]
