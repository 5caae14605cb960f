"""Finds labels that are likely wrong: a ranked list, a better label for each, and how many are contradicted.

Two witnesses never saw an image's own label: its nearest neighbours, who vote on its class, and logistic
regression, fitted to other images. Both make the ranking; the latter makes the estimate, by confident
learning. Doubts are probabilities: two numbers, fitted to all labels, bring them to what the labels bear out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import progress, rng
from ..core.errors import NearfarError
from ..features import logistic
from ..features.extract import Vectors
from ..features.knn import top_k
from .wrong_labels import WrongLabels, count_wrong

Rows = npt.NDArray[np.int64]
VOTING_NEIGHBOURS = 20
FOLDS = 5
PRIOR_VOTE = 0.05  # added to a share of votes, so that neighbours alone never exclude a class
SHARPER = np.geomspace(0.1, 4, 33)  # powers to which shares are raised
AT_RANDOM = np.linspace(0, 1, 101)  # shares of labels that are drawn from all classes, whatever the image


@dataclass(frozen=True)
class LabelErrors:
    """What is doubted of n labels.

    Attributes:
        classes: the names that numbers point to.
        labels: (n,) int64, the labels as they are.
        doubt: (n,) float32 in [0, 1]: the probability that the image would be given another label.
        suggested: (n,) int64, the label that the witnesses would give; the image's own where they agree.
        order: (n,) int64 rows, the most doubtful first.
        wrong: how many labels are wrong, by a model of the classifier's mistakes and of wrong labels.
        accuracy: share of labels that the classifier gives too, each fitted without the image.
        joint: (classes, classes) float64: the estimated share of images by given label and true label.
    """

    classes: tuple[str, ...]
    labels: Rows
    doubt: Vectors
    suggested: Rows
    order: Rows
    wrong: WrongLabels
    accuracy: float
    joint: npt.NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """Write the estimate and the rows it covers, the most doubtful first, in plain values."""
        return {
            "images": len(self.labels),
            "estimate": self.wrong.count,
            "interval": [self.wrong.low, self.wrong.high],
            "accuracy": self.accuracy,
            "classes": list(self.classes),
            "joint": self.joint.tolist(),
            "rows": [
                {
                    "row": int(row),
                    "label": self.classes[self.labels[row]],
                    "suggested": self.classes[self.suggested[row]],
                    "doubt": float(self.doubt[row]),
                }
                for row in self.order[: self.wrong.count]
            ],
        }


def find_label_errors(
    features: Vectors, labels: Rows, classes: Sequence[str], *, seed: int = 0
) -> LabelErrors:
    """Rank labels by how doubtful they are.

    A class's probability is the product of two, scaled to sum to 1: its share of the VOTING_NEIGHBOURS
    nearest by cosine (plus PRIOR_VOTE), and its probability by logistic regression that was fitted without
    the image; then `calibrated`. Doubt is 1 less the probability of the image's own label.

    Args:
        features: (n, d) float32.
        labels: (n,) int64 in [0, len(classes)).
        classes: their names, two at least.
        seed: random seed of the folds.

    Returns:
        Every row's doubt, and the estimate.

    Raises:
        NearfarError: a class has fewer than two images, or there is one class only.
    """
    count = len(classes)
    there = np.bincount(labels, minlength=count)
    if count < 2 or there.min() < 2:
        few = f"{classes[int(there.argmin())]!r} has {int(there.min())}" if count else "there is none"
        raise NearfarError(
            f"label errors need at least two classes of at least two rows each, and {few}; label more."
        )
    shares = out_of_fold(features, labels, count, seed)
    belief = calibrated(shares * (neighbour_shares(features, labels, count) + PRIOR_VOTE), labels)
    own = belief[np.arange(len(labels)), labels]
    joint = confident_joint(shares, labels)
    return LabelErrors(
        classes=tuple(classes),
        labels=labels,
        doubt=1 - own,
        suggested=belief.argmax(axis=1),
        order=np.argsort(own, kind="stable"),
        wrong=count_wrong(shares, labels, joint),
        accuracy=float((shares.argmax(axis=1) == labels).mean()),
        joint=joint,
    )


def neighbour_shares(features: Vectors, labels: Rows, classes: int, k: int = VOTING_NEIGHBOURS) -> Vectors:
    """Count the classes of each image's nearest neighbours, itself not among them.

    Args:
        features: (n, d) float32.
        labels: (n,) int64; every class has two images at least.
        classes: how many there are.
        k: neighbours; fewer for images whose class has fewer others, so that a small class can agree.

    Returns:
        (n, classes) float32, rows summing to 1.
    """
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    most = (torch.bincount(y, minlength=classes) - 1).clamp(max=k)[y, None]
    _, who = top_k(x, x, int(most.max()), exclude_self=True)
    asked = (torch.arange(who.shape[1]) < most).float()
    return (torch.zeros(len(x), classes).scatter_add_(1, y[who], asked) / most).numpy()


def out_of_fold(features: Vectors, labels: Rows, classes: int, seed: int) -> Vectors:
    """Give each image its class shares by logistic regression that was fitted without it.

    Args:
        features: (n, d) float32.
        labels: (n,) int64; every class has two images at least.
        classes: how many there are.
        seed: random seed of the folds, which are stratified by class.

    Returns:
        (n, classes) float32, rows summing to 1. Each fold's penalty is chosen on the next fold, and its fit
        starts from one that saw neither of the two: nothing that is fitted or chosen knows the fold's labels.
    """
    fold = np.empty(len(labels), np.int64)
    for number in range(classes):
        own = np.flatnonzero(labels == number)
        fold[own[rng.permutation(rng.fold(seed, "label errors", number), len(own))]] = np.arange(len(own))
    folds = min(FOLDS, int(np.bincount(labels).max()))
    fold %= folds
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    shares = np.empty((len(labels), classes), np.float32)
    for number in range(folds):
        progress.stage("fitting classifiers", number, folds)
        out = torch.from_numpy(fold == number)
        asked = torch.from_numpy(fold == (number + 1) % folds)
        kept = ~(out | asked)
        start, l2 = None, 1.0 / int((~out).sum())  # of two folds none is left to choose by
        if int(kept.sum()) > 1:
            start = _likeliest(x[kept], y[kept], x[asked], y[asked], classes)
            l2 = start.l2
        fitted = logistic.fit(x[~out], y[~out], classes, l2, start=start, tolerance=1e-4)
        shares[out.numpy()] = fitted.logits(x[out]).softmax(dim=1).numpy()
    return shares


def _likeliest(
    x: torch.Tensor, y: torch.Tensor, asked: torch.Tensor, truth: torch.Tensor, classes: int
) -> logistic.Probe:
    """Choose the penalty by the likelihood of other rows' labels, along `logistic.path`."""
    # Not by accuracy, as `logistic.choose`: a ranking needs probabilities that are not overconfident.
    best, waited = float("inf"), 0
    for found in logistic.path(x, y, classes):
        loss = float(torch.nn.functional.cross_entropy(found.logits(asked), truth))
        if loss < best:
            best, chosen, waited = loss, found, 0
        elif (waited := waited + 1) == logistic.PATIENCE:
            break
    return chosen


def calibrated(shares: Vectors, labels: Rows) -> Vectors:
    """Turn class shares into probabilities of the labels that people give.

    Shares are raised to a power, scaled to sum to 1, and mixed with a share of labels that are drawn at
    random from all classes. Power and share are those under which the labels are likeliest. No image's
    classes change their order, so no figure of agreement gains by it.

    Args:
        shares: (n, classes) of 0 or more, which did not see the images' own labels.
        labels: (n,) int64.

    Returns:
        (n, classes) float32, rows summing to 1.
    """
    logs, rows = np.log(np.maximum(shares, np.finfo(np.float32).tiny)), np.arange(len(labels))
    logs -= logs.max(axis=1, keepdims=True)
    classes = shares.shape[1]
    best, power, mixed = -np.inf, 1.0, 0.0
    for tried in SHARPER:
        own = np.exp(tried * logs[rows, labels]) / np.exp(tried * logs).sum(axis=1)
        for part in AT_RANDOM:
            likely = float(np.log(np.maximum((1 - part) * own + part / classes, 1e-12)).sum())
            if likely > best:
                best, power, mixed = likely, float(tried), float(part)
    made = np.exp(power * logs)
    made /= made.sum(axis=1, keepdims=True)
    return ((1 - mixed) * made + mixed / classes).astype(np.float32)


def confident_joint(shares: Vectors, labels: Rows) -> npt.NDArray[np.float64]:
    """Estimate how given and true labels occur together: the confident joint, calibrated.

    An image counts for class j if its share of j reaches the mean share that images labelled j have of it; of
    several such classes, for the one with the largest share. Counts are then scaled so that each given label
    is as frequent as it is, and to sum to 1.

    Args:
        shares: (n, classes), of a model that did not see the images' own labels.
        labels: (n,) int64; every class has an image.

    Returns:
        (classes, classes) float64: row the given label, column the true one.

    Source:
        Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels".
    """
    classes = shares.shape[1]
    there = np.bincount(labels, minlength=classes)
    limit = np.array([shares[labels == j, j].mean() for j in range(classes)])
    sure = np.where(shares >= limit, shares, -1)
    confident = sure.max(axis=1) >= 0
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[confident], sure[confident].argmax(axis=1)), 1)
    empty = counts.sum(axis=1) == 0
    counts[empty, empty.nonzero()[0]] = 1  # none of the class counts: taken at its word
    joint = counts / counts.sum(axis=1, keepdims=True) * there[:, None]
    return joint / joint.sum()


def precision_at(order: Rows, wrong: npt.NDArray[np.bool_], count: int) -> float:
    """Tell which share of the first `count` rows of a ranking is truly wrong.

    Args:
        order: (n,) rows, the most doubtful first.
        wrong: (n,) bool.
        count: rows to look at, 1 to n.
    """
    return float(wrong[order[:count]].mean())
