"""What the known encoder gives on a collection with labels: a sample tells, before training and after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..core.errors import BadImage, NearfarError
from ..core.intervals import sign_test, wilson
from ..core.text import percent
from ..data.modalities import IMAGES, modality
from ..data.open import open_data
from ..data.source import Source
from ..features.chunked import ragged_chunk
from ..features.extract import features
from ..features.knn import top_k
from ..models import embedded
from .run import Run, load

SAMPLE = 96  # images encoded at most
TOGETHER = 32  # images encoded before the clock is looked at
SECONDS = 1.5  # after which no more are encoded
OF_A_CLASS = 2  # images of a class, at least: an image's nearest other one may then be of its class
LONG = (
    20_000  # images that a training sees, each as often as it does, from which on this is worth its seconds
)
LARGEST = 100_000  # images of a collection, above which to read its labels would keep the first step waiting
SURE = 0.05  # of the sign test


@dataclass(frozen=True)
class KnownCheck:
    """The share of a sample whose nearest other image has the same label, by the known encoder.

    Attributes:
        encoder: its name.
        images: in the sample.
        accuracy, low, high: the share and its 95 % interval.
        chance: the share of pairs of other images in the sample with the same label.
        seconds: that this took.
    """

    encoder: str
    images: int
    accuracy: float
    low: float
    high: float
    chance: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"known encoder: the nearest other image of {self.images} sampled ones has the same label in "
            f"{percent(self.accuracy)} ({100 * self.low:.0f} to {100 * self.high:.0f}), by chance in "
            f"{percent(self.chance)} ({self.encoder}, {self.seconds:.0f} s){self.advice}"
        )

    @property
    def advice(self) -> str:
        """What to try where its neighbours tell the labels apart, as they do on photographs."""
        if self.low <= self.chance:
            return ""
        return "; a small encoder can learn from it, without labels: --method distill --teacher known"


@dataclass(frozen=True)
class KnownComparison:
    """A finished run beside the known encoder, on the same sample of the images that it was trained on.

    Attributes:
        images: in the sample.
        own, known: the share whose nearest other image has the same label, by each of the two.
        p: of the sign test of the images that only one of them gets right.
    """

    images: int
    own: float
    known: float
    p: float

    def __str__(self) -> str:
        if self.p > SURE:
            found = "too few images to tell whether training paid; nearfar evaluate tells, on labelled images"
        elif self.own > self.known:
            found = "training paid, as far as these images tell"
        else:
            found = "the known encoder is better here; embed with known, or start from it (--weights known)"
        return (
            f"the nearest other image of {self.images} sampled ones has the same label in "
            f"{percent(self.own)} by this run and in {percent(self.known)} by the known encoder: {found}."
        )


def check_known(data: Any, *, limit: int, device: torch.device, threads: int) -> KnownCheck | None:
    """Measure it, where the encoder is installed and the images have labels.

    Args:
        data: as in `pretrain`.
        limit: pixels of an image at most.
        device: where to compute.
        threads: CPU threads.

    Returns:
        The figure; None where it cannot be told.
    """
    source = _labelled(data)
    if source is None:
        return None
    began, run = time.perf_counter(), load("known")
    sample = _Sample(source, limit, device, threads)
    sample.encode(run, SECONDS)
    if (right := sample.right()) is None:
        return None
    low, high = wilson(int(right.sum()), len(right))
    seconds = round(time.perf_counter() - began, 1)
    return KnownCheck(run.encoder.name, len(right), float(right.mean()), low, high, sample.chance(), seconds)


def compare_known(
    data: Any, run: Run, *, limit: int, device: torch.device, threads: int
) -> KnownComparison | None:
    """Measure a finished run and the known encoder on the same sample, where labels tell.

    Args:
        data, limit, device, threads: as for `check_known`.
        run: trained on these images.

    Returns:
        The figures; None where they cannot be told.
    """
    source = _labelled(data)
    if source is None:
        return None
    sample = _Sample(source, limit, device, threads)
    sample.encode(load("known"), SECONDS)
    if (known := sample.right()) is None:
        return None
    sample.encode(run)
    own = sample.right()
    if own is None or len(own) != len(known):  # an image that one of the two could not read
        return None
    p = sign_test(own.astype(np.float64) - known, rng.fold(0, "known check", "test"))
    return KnownComparison(len(own), float(own.mean()), float(known.mean()), p)


def _labelled(data: Any) -> Source | None:
    """Open images with their labels; None where there are none, or no known encoder to measure."""
    if not embedded.there():
        return None
    try:
        source = open_data(data, expected=IMAGES, labels=True)
    except NearfarError:  # no labels, or labels that could be read in two ways
        return None
    return None if source.labels is None else source


class _Sample:
    """Images drawn from a collection, and the vectors that an encoder gives them."""

    def __init__(self, source: Source, limit: int, device: torch.device, threads: int) -> None:
        self.source, self.limit, self.device, self.threads = source, limit, device, threads
        self.rows = rng.permutation(rng.fold(0, "known check"), len(source))[:SAMPLE].tolist()
        self.x = torch.empty(0)

    def encode(self, run: Run, seconds: float | None = None) -> None:
        """Encode the images; those that are broken, or not reached within the time, are in it no longer."""
        began, encoder, kind = time.perf_counter(), run.encoder.to(self.device), modality(IMAGES)
        preprocess = kind.with_range(run.preprocess, self.source, limit=self.limit)
        vectors, reached = [], []
        for start in range(0, len(self.rows), TOGETHER):
            values, rows = [], []
            for row in self.rows[start : start + TOGETHER]:
                try:
                    content, _ = kind.fetch(self.source, row, limit=self.limit)
                    values.append(kind.decode(content, preprocess, limit=self.limit).value)
                except BadImage:
                    continue
                rows.append(row)
            if rows:
                images = ragged_chunk(rows, values, IMAGES)
                how: dict[str, Any] = {"device": self.device, "threads": self.threads}
                vectors.append(features(encoder, images, preprocess, **how))
                reached += rows
            if seconds is not None and time.perf_counter() - began > seconds:
                break
        self.rows = reached
        self.x = torch.from_numpy(np.concatenate(vectors)) if vectors else torch.empty(0)

    def _kept(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give the places of images with another of their class, and the number of its class for each."""
        labels = [(self.source.labels or ())[row] for row in self.rows]
        _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        kept = np.flatnonzero(counts[numbers] >= OF_A_CLASS)
        return kept, numbers[kept]

    def right(self) -> npt.NDArray[np.bool_] | None:
        """Tell of which images the nearest other one has the same label; None where no two classes are."""
        if not self.rows:
            return None
        kept, own = self._kept()
        if len({*own.tolist()}) < 2:
            return None
        x = self.x[torch.from_numpy(kept)]
        found: npt.NDArray[np.bool_] = own[top_k(x, x, 1, exclude_self=True)[1][:, 0].numpy()] == own
        return found

    def chance(self) -> float:
        """Give the share of pairs of other images with the same label."""
        counts = np.bincount(self._kept()[1])
        return float((counts * (counts - 1)).sum() / (counts.sum() * (counts.sum() - 1)))
