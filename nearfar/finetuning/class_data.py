"""Reads images with one class or several labels each, and turns these into numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.labels import open_labelled
from ..data.modalities import modality_of
from ..images.files import MAX_PIXELS
from .many_labels import open_many
from .task_types import Labelled, Where


def open_classes(
    data: Any, preprocess: Any, where: Where, many: bool
) -> tuple[Labelled, list[tuple[str, ...]]]:
    """Open and decode labelled images.

    Args:
        data: what the user named.
        preprocess: what the encoder's input is.
        where: how labels are found.
        many: whether an image has several labels, or none.

    Returns:
        The images that can be used, without targets yet, and the labels of each.

    Raises:
        NearfarError: there are no labels, or too many images cannot be used.
    """
    kind = modality_of(preprocess)
    if many:
        source, labels = open_many(data, kind.name, where.labels)
    else:
        source = open_labelled(data, kind.name, label_level=where.label_level, labels=where.labels)
        labels = [(word,) for word in source.labels or ()]
    # Numbers stand for labels while images are decoded, which leaves out those that are unusable.
    rows = replace(source, labels=tuple(map(str, range(len(source)))))
    dataset = kind.load(rows, preprocess, limit=MAX_PIXELS, max_bad=where.max_bad, threads=where.workers)
    kept = [int(dataset.classes[number]) for number in dataset.labels]
    found = Labelled(source.name, source, dataset, None, (), "", rejected=tuple(dataset.rejected))
    return found, [labels[row] for row in kept]


def numbered(
    found: Labelled, words: Sequence[tuple[str, ...]], classes: tuple[str, ...], many: bool
) -> Labelled:
    """Turn labels into numbers.

    Args:
        found: n images.
        words: the labels of each.
        classes: names of all.
        many: whether an image has several labels.

    Returns:
        The images, with (n,) int64 class numbers as targets, or (n, classes) float32 of 0 and 1.
    """
    number = {name: at for at, name in enumerate(classes)}
    if many:
        targets: npt.NDArray[Any] = np.zeros((len(words), len(classes)), np.float32)
        for row, some in enumerate(words):
            targets[row, [number[word] for word in some]] = 1
    else:
        targets = np.array([number[word] for (word,) in words], np.int64)
    digest = hashlib.sha256(f"{found.dataset.fingerprint} {classes} {many}".encode())
    digest.update(targets.tobytes())
    return replace(found, targets=targets, classes=classes, digest=digest.hexdigest())
