"""Measures a classifier's accuracy on corrupted test images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..core import progress, rng
from ..core.device import cores
from ..data.dataset import ImageDataset
from ..features.probes import Rows
from .corruptions import NAMES, STRENGTHS, Pixels, corrupt

MAX_IMAGES = 1000  # test images, at most
MAX_PIXELS = 1 << 24  # pixels of them, at most: 334 images of 224 x 224


@dataclass(frozen=True)
class CorruptedAccuracy:
    """Accuracies on corrupted test images.

    Attributes:
        clean: accuracy on the same images, uncorrupted.
        accuracy: by corruption, the accuracies at strengths 1 to 5.
        images: how many test images were used.
    """

    clean: float
    accuracy: Mapping[str, tuple[float, ...]]
    images: int

    @property
    def mean(self) -> float:
        """The mean corruption accuracy: over all corruptions and strengths."""
        return float(np.mean([list(item) for item in self.accuracy.values()]))

    @property
    def relative(self) -> float:
        """The mean corruption accuracy as a share of the accuracy on clean images."""
        return self.mean / self.clean if self.clean else 0.0

    def to_json(self) -> dict[str, Any]:
        """Write the figures in plain values."""
        accuracy = {name: list(item) for name, item in self.accuracy.items()}
        return {
            "clean": self.clean,
            "mean": self.mean,
            "relative": self.relative,
            "accuracy": accuracy,
            "images": self.images,
        }


def corrupted_accuracy(
    answer: Callable[[ImageDataset], Rows],
    dataset: ImageDataset,
    truth: Rows,
    *,
    seed: int,
    names: Sequence[str] = NAMES,
    sample: int = MAX_IMAGES,
) -> CorruptedAccuracy:
    """Measure a classifier on corrupted test images.

    It is asked 1 + 5 x len(names) times about a sample of the images, the same one each time; the images are
    corrupted as the data set holds them, before the encoder's own preprocessing.

    Args:
        answer: gives a data set's images their class numbers, as `FineTuned.answer` does.
        dataset: test images, one at least.
        truth: (n,) their class numbers.
        seed: names the sample and the draws.
        names: of the corruptions, as in `corruptions.NAMES`; one at least.
        sample: images at most; fewer are taken where they hold over 2^24 pixels together.

    Returns:
        The accuracies.

    Raises:
        NearfarError: there is no such corruption.

    Source:
        Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and
        perturbations". Their mean error is relative to AlexNet's; this mean is plain.
    """
    rows = _sample(dataset, sample, seed)
    right, key = truth[rows], rng.fold(seed, "corruption")
    block = dataset.gather(rows)
    images = [block.image(place) for place in range(len(rows))]
    clean = float((answer(_in_memory(dataset, rows, images, "clean")) == right).mean())
    found: dict[str, tuple[float, ...]] = {}
    with (
        progress.Bar("testing on corrupted images", len(names) * len(STRENGTHS) * len(rows)) as bar,
        ThreadPoolExecutor(cores()) as pool,
    ):
        for name in names:
            shares = []
            for strength in STRENGTHS:
                corrupted = list(pool.map(partial(_corrupted, name, strength, key), images, rows))
                said = answer(_in_memory(dataset, rows, corrupted, f"{name} {strength}"))
                shares.append(float((said == right).mean()))
                bar.advance(len(rows))
            found[name] = tuple(shares)
    return CorruptedAccuracy(clean, found, len(rows))


def _sample(dataset: ImageDataset, count: int, seed: int) -> Rows:
    """Choose the images that are used, in order; one at least."""
    order = rng.permutation(rng.fold(seed, "robustness"), len(dataset))[:count]
    block = dataset.gather(order)
    areas = np.cumsum(block.height.astype(np.int64) * block.width)
    return np.sort(order[: max(1, int(np.searchsorted(areas, MAX_PIXELS, side="right")))])


def _corrupted(name: str, strength: int, key: int, image: Pixels, row: np.int64) -> Pixels:
    """Corrupt one image of the data set."""
    return corrupt(image[None], name, strength, key, np.array([row]))[0]


def _in_memory(dataset: ImageDataset, rows: Rows, images: Sequence[Pixels], what: str) -> ImageDataset:
    """Put images into a data set."""
    sizes = np.array([image.size for image in images], np.int64)
    pixels = np.concatenate([image.reshape(-1) for image in images])
    name = f"{dataset.fingerprint} {what} {rows.tolist()}"
    return ImageDataset(
        ids=[str(row) for row in rows.tolist()],
        labels=None if dataset.labels is None else dataset.labels[rows],
        classes=dataset.classes,
        fingerprint=hashlib.blake2b(name.encode(), digest_size=16).hexdigest(),
        resident=True,
        rejected=(),
        pixels=pixels,
        offsets=np.cumsum(sizes) - sizes,
        heights=np.array([image.shape[0] for image in images], np.int32),
        widths=np.array([image.shape[1] for image in images], np.int32),
        digests=np.stack([_digest(image) for image in images]),
    )


def _digest(image: Pixels) -> Pixels:
    return np.frombuffer(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), np.uint8)
