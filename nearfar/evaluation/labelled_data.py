"""Opens the labelled images of an evaluation, training and test, and checks their classes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from ..core.device import cores
from ..core.errors import NearfarError
from ..data.dataset import ImageDataset
from ..data.labels import open_labelled
from ..data.modalities import modality, modality_of
from ..data.reading import TooManyBad
from ..data.sources import Source
from ..features.probes import Rows
from ..images.views import Preprocess
from ..training.settings import Training


def open_both(
    train: Any, test: Any, kind: str, label_level: int | None, labels: str | Path | None
) -> tuple[Source, Source]:
    """Open training and test images with their labels, and read none of them yet.

    Args:
        train, test: as `sources.open_source` takes them.
        kind: of data that is expected.
        label_level, labels: as `open_labelled` takes them.

    Raises:
        NearfarError: they cannot be opened, have no labels, or the test has a class that training lacks.
    """
    found = [open_labelled(data, kind, label_level=label_level, labels=labels) for data in (train, test)]
    _check(*found)
    return found[0], found[1]


def _check(train: Source, test: Source) -> None:
    """Refuse a test set with classes that training has no image of."""
    unknown = sorted(set(test.labels or ()) - set(train.labels or ()))
    if unknown:
        noun = modality(train.modality).noun
        raise NearfarError(
            f"{test.name} has classes that {train.name} lacks ({', '.join(unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}); add training {noun} of each, or remove "
            "them."
        )


def read(source: Source, preprocess: Preprocess) -> ImageDataset:
    """Decode a labelled collection, at the short side that training keeps too.

    Args:
        source: opened with labels.
        preprocess: what the encoder's input is.
    """
    try:
        dataset: ImageDataset = modality_of(preprocess).load(
            source,
            preprocess,
            limit=Training.max_pixels,
            max_bad=Training.max_bad,
            threads=cores(),
        )
    except TooManyBad as error:
        raise NearfarError(error.found) from None  # no flag allows an evaluation more of them
    return dataset


def class_numbers(dataset: ImageDataset) -> Rows:
    """Give the labels of training images.

    Args:
        dataset: decoded, with labels.

    Returns:
        (n,) int64 numbers of `dataset.classes`.

    Raises:
        NearfarError: there is one class only.
    """
    assert dataset.labels is not None
    if len(dataset.classes) < 2:
        noun = modality(dataset.modality).noun
        raise NearfarError(
            f"the training {noun} are all of class {dataset.classes[0]!r}; add {noun} of another class."
        )
    return dataset.labels


def renumbered(dataset: ImageDataset, classes: tuple[str, ...], train: str) -> Rows:
    """Give the labels of test images as numbers of the training classes.

    Args:
        dataset: decoded, with labels.
        classes: the training classes.
        train: what errors call the training images.

    Returns:
        (n,) int64.

    Raises:
        NearfarError: no training image of a class could be used.
    """
    assert dataset.labels is not None
    missing = [name for name in dataset.classes if name not in classes]
    if missing:
        one = modality(dataset.modality).one
        raise NearfarError(
            f"every training {one} of class {missing[0]!r} in {train} is unusable; run nearfar check "
            f"{shlex.quote(train)}."
        )
    numbers = np.array([classes.index(name) for name in dataset.classes], np.int64)
    return numbers[dataset.labels]
