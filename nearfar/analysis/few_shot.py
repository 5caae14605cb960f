"""Few-shot classification without training: each image gets the class of the most similar examples, or none.

Examples are compared with images after an `origin` is taken away and rows are scaled to length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core.errors import NearfarError
from ..features.extract import Vectors
from ..features.knn import unit
from . import conformal, label_propagation

Rows = npt.NDArray[np.int64]
UNCLASSIFIED = -1  # the class number of an image that is unlike every example


@dataclass(frozen=True)
class FewShotPrediction:
    """The class of each of n images.

    Attributes:
        classes: the names that numbers point to.
        predicted: (n,) int64, the class, or UNCLASSIFIED.
        nearest: (n,) int64, the class it would be if it had to be one.
        similarity: (n,) float32 cosine to the nearest prototype, from -1 to 1.
        threshold: the similarity below which an image is left unclassified; None where all get a class.
        examples: how many there were.
    """

    classes: tuple[str, ...]
    predicted: Rows
    nearest: Rows
    similarity: Vectors
    threshold: float | None
    examples: int

    def to_json(self) -> dict[str, Any]:
        """Write counts and the threshold in plain values, without the predictions themselves."""
        return {
            "images": len(self.predicted),
            "examples": self.examples,
            "threshold": self.threshold,
            "counts": {
                **{name: int((self.predicted == at).sum()) for at, name in enumerate(self.classes)},
                "": int((self.predicted == UNCLASSIFIED).sum()),
            },
        }


def check_reject(reject: float) -> None:
    """Refuse what is no share of images, before there are any.

    Args:
        reject: as `classify` takes it.
    """
    if not 0 <= reject < 1:
        raise NearfarError(f"--reject is {reject:g}; give a share from 0 to below 1, such as 0.05.")


def classify(
    features: Vectors,
    examples: Vectors,
    labels: Rows,
    classes: Sequence[str],
    *,
    reject: float = 0.05,
    propagate: bool = False,
) -> FewShotPrediction:
    """Give each image the class whose prototype, the mean of its examples, is nearest by cosine.

    Args:
        features: (n, d) float32, the images to name.
        examples: (m, d) float32.
        labels: (m,) int64 in [0, len(classes)), the examples' classes; each has one at least.
        classes: their names.
        reject: share of images of these classes that may be left unclassified, from 0 (every image gets a
            class) to below 1. See `threshold`.
        propagate: whether labels propagate over a nearest-neighbour graph instead of coming from prototypes.

    Returns:
        Each image's class.

    Raises:
        NearfarError: a class has no example, or `reject` is out of range.

    Source:
        Snell, Swersky and Zemel 2017, "Prototypical networks for few-shot learning"; centred and scaled as in
        Wang et al. 2019, "SimpleShot". Propagation: see `label_propagation`.
    """
    there = np.bincount(labels, minlength=len(classes))
    if not len(labels) or there.min() < 1:
        empty = classes[int(there.argmin())] if len(classes) else "classes"
        raise NearfarError(f"there is no example of {empty!r}; give at least one of each class.")
    check_reject(reject)
    middle = origin(features, examples, labels, len(classes))
    x, shown = centred(features, middle), centred(examples, middle)
    cosines = x @ prototypes(shown, labels, len(classes)).T
    similarity, nearest = cosines.max(axis=1), cosines.argmax(axis=1)
    if propagate:
        known = np.concatenate([np.full(len(x), UNCLASSIFIED), labels])
        shares = label_propagation.propagate(np.concatenate([x, shown]), known, len(classes))[: len(x)]
        reached = shares.sum(axis=1) > 0
        nearest = np.where(reached, shares.argmax(axis=1), nearest)
    limit = threshold(left_out_similarity(shown, labels, len(classes)), reject)
    predicted = nearest if limit is None else np.where(similarity < limit, UNCLASSIFIED, nearest)
    return FewShotPrediction(tuple(classes), predicted, nearest, similarity, limit, len(labels))


def by_words(features: Vectors, words: Vectors, classes: Sequence[str]) -> FewShotPrediction:
    """Give each image the class whose name's vector is nearest by cosine; every image gets one.

    Args:
        features: (n, d) float32, the images.
        words: (k, d) float32, of the names, in the same space.
        classes: the k names.

    Returns:
        Each image's class.

    Source:
        Radford et al. 2021, CLIP, section 3.1.2.
    """
    x, y = (
        unit(torch.from_numpy(np.ascontiguousarray(rows, np.float32))).numpy() for rows in (features, words)
    )
    cosines = x @ y.T
    nearest = cosines.argmax(axis=1)
    return FewShotPrediction(tuple(classes), nearest, nearest, cosines.max(axis=1), None, 0)


def origin(features: Vectors, examples: Vectors, labels: Rows, classes: int) -> Vectors:
    """Find the point from which all is looked at: the mean of the images, if these are of all classes.

    That of images that are mostly of one class lies amid that class, of which angles then say nothing. So the
    mean of the examples joins it, the more the fewer classes there seem to be among the images.

    Args:
        features: (n, d) float32, the images.
        examples: (m, d) float32.
        labels: (m,) int64, the examples' classes; each has one at least, and counts alike.
        classes: how many there are.

    Returns:
        (d,) float32.
    """
    own = mean_of_classes(examples, labels, classes)
    alike = centred(features, own) @ prototypes(centred(examples, own), labels, classes).T
    shares = np.bincount(alike.argmax(axis=1), minlength=classes) / len(features)
    there = shares[shares > 0]
    spread = float(np.exp(-(there * np.log(there)).sum())) / classes  # 1 for as many of each class
    middle: Vectors = (spread * features.mean(axis=0) + (1 - spread) * own).astype(np.float32)
    return middle


def mean_of_classes(examples: Vectors, labels: Rows, classes: int) -> Vectors:
    """Average the means of classes, so that one with many examples does not pull their middle to itself.

    Args:
        examples: (m, d) floats.
        labels: (m,) int64; each class has one at least.
        classes: how many there are.

    Returns:
        (d,).
    """
    means = [examples[labels == number].mean(axis=0) for number in range(classes)]
    middle: Vectors = np.mean(means, axis=0)
    return middle


def centred(x: Vectors, middle: Vectors) -> Vectors:
    """Take a mean away, and scale rows to length 1.

    Args:
        x: (n, d) floats.
        middle: (d,).
    """
    return unit(torch.from_numpy(x - middle)).numpy()


def prototypes(examples: Vectors, labels: Rows, classes: int) -> Vectors:
    """Average the examples of each class, and scale to length 1.

    Args:
        examples: (m, d) float32 rows of length 1.
        labels: (m,) int64.
        classes: how many there are.

    Returns:
        (classes, d) float32.
    """
    sums = np.zeros((classes, examples.shape[1]), np.float32)
    np.add.at(sums, labels, examples)
    return unit(torch.from_numpy(sums)).numpy()


def left_out_similarity(examples: Vectors, labels: Rows, classes: int) -> Vectors:
    """Measure the cosine of each example to its nearest prototype, when it does not count for one itself.

    Args:
        examples: (m, d) float32 rows of length 1.
        labels: (m,) int64.
        classes: how many there are.

    Returns:
        (m',) float32, of the examples whose class has others.
    """
    sums = np.zeros((classes, examples.shape[1]), np.float32)
    np.add.at(sums, labels, examples)
    there = np.bincount(labels, minlength=classes)
    cosines = examples @ prototypes(examples, labels, classes).T
    rows = np.flatnonzero(there[labels] > 1)
    others = unit(torch.from_numpy(sums[labels[rows]] - examples[rows])).numpy()
    cosines[rows, labels[rows]] = (others * examples[rows]).sum(axis=1)
    return cosines[rows].max(axis=1)


def threshold(known: Vectors, reject: float) -> float | None:
    """Choose the similarity below which an image is left unclassified, by a guaranteed rate.

    Args:
        known: (m,) similarities of images of the classes that did not help to make the prototypes.
        reject: the share of such images that may fall below.

    Returns:
        The threshold: a new image of these classes falls below it with a chance of at most `reject`. None
        where m is too small to guarantee that, or `reject` is 0: below 1 / (m + 1) there is no guarantee.
    """
    lowest = conformal.threshold(-known, reject)
    return None if lowest is None else -lowest
