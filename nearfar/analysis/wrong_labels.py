"""Estimates how many labels are wrong, from a classifier that did not see them.

Counting where a confident classifier disagrees, as confident learning does, takes its mistakes for wrong
labels: 29 of 100 where 3 are. Here a model tells wrong labels from hard images. Of an image that is hard for
the classifier, several labels are likely; a wrong label is one that is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core import progress

POWERS = np.geomspace(0.25, 10, 25)  # to which shares are raised: wrong labels make them less sure
WRONG = np.concatenate([[0], np.geomspace(0.0005, 0.6, 72)])  # shares of wrong labels
FALL = 1.92  # of the log likelihood, from its maximum to the ends of a 95 % interval


@dataclass(frozen=True)
class WrongLabels:
    """How many labels are wrong, and the ends of a 95 % interval, by the model."""

    count: int
    low: int
    high: int


def count_wrong(
    shares: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], joint: npt.NDArray[np.float64]
) -> WrongLabels:
    """Estimate how many labels are wrong, by maximum likelihood.

    The true class of an image is distributed as its shares raised to a power and scaled to sum to 1. A part
    of all labels is wrong: there the label is one of the other classes, each as likely, or by which classes
    are confused in `joint`. Power, part and kind are those under which the labels are likeliest. The interval
    is of the profile likelihood: it tells what drawing other images would change, not whether the model is
    right.

    Args:
        shares: (n, classes) of 0 or more, rows summing to 1, of a classifier that did not see the images' own
            labels.
        labels: (n,) int64.
        joint: (classes, classes), the share of images by given label and true label, of which only the
            proportions off the diagonal are used.

    Returns:
        The estimate.

    Source:
        Sukhbaatar, Bruna, Paluri, Bourdev and Fergus 2015, "Training convolutional networks with noisy
        labels": wrong labels as a matrix after a classifier's probabilities. Here the matrix has one number
        to fit, and the classifier is fitted already.
    """
    count, classes = shares.shape
    confused = joint.T + 1e-9  # true class, then given label
    kinds = [np.ones((classes, classes)), confused]
    for kind in kinds:
        np.fill_diagonal(kind, 0)
        kind /= kind.sum(axis=1, keepdims=True)
    given = [kind[:, labels].T.astype(np.float32) for kind in kinds]  # (n, classes): of each true class
    logs: npt.NDArray[np.float32] = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    logs = logs - logs.max(axis=1, keepdims=True)
    rows, likely = np.arange(count), np.full(len(WRONG), -np.inf)
    for done, power in enumerate(POWERS):
        progress.stage("estimating wrong labels", done, len(POWERS))
        truth = np.exp(np.float32(power) * logs).astype(np.float32)
        truth /= truth.sum(axis=1, keepdims=True)
        right = truth[rows, labels].astype(np.float64)
        for chance in given:
            wrong = np.einsum("nk,nk->n", truth, chance)
            for at, part in enumerate(WRONG):
                found = np.log(np.maximum((1 - part) * right + part * wrong, 1e-12)).sum()
                likely[at] = max(likely[at], found)
    inside = np.flatnonzero(likely >= likely.max() - FALL)
    ends = [WRONG[likely.argmax()], WRONG[inside[0]], WRONG[inside[-1]]]
    return WrongLabels(*(round(count * float(part)) for part in ends))
