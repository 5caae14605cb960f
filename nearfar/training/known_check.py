"""What the known encoder gives on a collection with labels, told by a sample before anything is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core import rng
from ..core.errors import BadImage, NearfarError
from ..core.intervals import wilson
from ..core.text import percent
from ..data.modalities import IMAGES, modality
from ..data.open import open_data
from ..features.chunked import ragged_chunk
from ..features.extract import features
from ..features.knn import top_k
from ..models import embedded
from .run import load

SAMPLE = 96  # images encoded at most
TOGETHER = 32  # images encoded before the clock is looked at
SECONDS = 1.5  # after which no more are encoded
OF_A_CLASS = 2  # images of a class, at least: an image's nearest other one may then be of its class


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
    if not embedded.there():
        return None
    try:
        source = open_data(data, expected=IMAGES, labels=True)
    except NearfarError:  # no labels, or labels that could be read in two ways
        return None
    if source.labels is None:
        return None
    began, run, kind = time.perf_counter(), load("known"), modality(IMAGES)
    encoder, encoding = run.encoder.to(device), time.perf_counter()
    order = rng.permutation(rng.fold(0, "known check"), len(source))[:SAMPLE].tolist()
    vectors, labels = [], []
    for start in range(0, len(order), TOGETHER):
        values, rows = [], []
        for row in order[start : start + TOGETHER]:
            try:
                content, _ = kind.fetch(source, row, limit=limit)
                values.append(kind.decode(content, run.preprocess, limit=limit).value)
            except BadImage:
                continue
            rows.append(row)
        if rows:
            images = ragged_chunk(rows, values, IMAGES)
            vectors.append(features(encoder, images, run.preprocess, device=device, threads=threads))
            labels += [source.labels[row] for row in rows]
        if time.perf_counter() - encoding > SECONDS:
            break
    names, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts[numbers] >= OF_A_CLASS)
    if len(names) < 2 or len({*numbers[kept].tolist()}) < 2:
        return None
    x, own = torch.from_numpy(np.concatenate(vectors)[kept]), numbers[kept]
    right = int((own[top_k(x, x, 1, exclude_self=True)[1][:, 0].numpy()] == own).sum())
    counts = np.bincount(own)
    chance = float((counts * (counts - 1)).sum() / (len(own) * (len(own) - 1)))
    low, high = wilson(right, len(own))
    seconds = time.perf_counter() - began
    return KnownCheck(run.encoder.name, len(own), right / len(own), low, high, chance, round(seconds, 1))
