"""How good predicted classes and labels are: accuracy, calibration error, mean average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from . import calibrate
from .task_types import Figures, Rows

BINS = 15  # of the calibration error

Logits = npt.NDArray[np.float32]


def of_classes(
    logits: Logits, truth: Rows, classes: Sequence[str], temperature: float, *, balanced: bool = False
) -> Figures:
    """Measure predictions of one class an image.

    Args:
        logits: (n, classes).
        truth: (n,) class numbers.
        classes: their names.
        temperature: by which logits are divided.
        balanced: whether the main figure is the mean of the classes' accuracies.

    Returns:
        accuracy, balanced_accuracy, log_loss, calibration_error; recall and precision of each class.
    """
    shares = calibrate.probabilities(logits, temperature, False)
    said = shares.argmax(axis=1)
    right = said == truth
    there = np.bincount(truth, minlength=len(classes))
    hits = np.bincount(truth[right], minlength=len(classes))
    claimed = np.bincount(said, minlength=len(classes))
    own = shares[np.arange(len(truth)), truth]
    values = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float((hits[there > 0] / there[there > 0]).mean()),
        "log_loss": float(-np.log(np.maximum(own, 1e-12)).mean()),
        "calibration_error": calibration_error(shares.max(axis=1), right),
    }
    values["chance"] = 1 / max(1, int((there > 0).sum())) if balanced else float(there.max() / len(truth))
    # So weighed that the mean over images is the mean over the classes that are there.
    weigh = len(truth) / ((there > 0).sum() * np.maximum(there, 1))
    main = "balanced_accuracy" if balanced else "accuracy"
    per_image = right * (weigh[truth] if balanced else 1.0)
    per_class = {
        name: {
            "images": float(there[at]),
            **({"recall": float(hits[at] / there[at])} if there[at] else {}),
            **({"precision": float(hits[at] / claimed[at])} if claimed[at] else {}),
        }
        for at, name in enumerate(classes)
    }
    return Figures(main, values, np.asarray(per_image, np.float64), per_class)


def of_labels(
    logits: Logits, truth: npt.NDArray[np.float32], classes: Sequence[str], temperature: float
) -> Figures:
    """Measure predictions of several labels an image.

    Args:
        logits: (n, classes).
        truth: (n, classes) of 0 and 1.
        classes: names of the labels.
        temperature: by which logits are divided.

    Returns:
        mAP, the mean over labels that are there of their average precision; micro_f1 and exact at 0.5;
        log_loss and calibration_error over all pairs of image and label; average precision of each label.
    """
    shares = calibrate.probabilities(logits, temperature, True)
    said, there = shares >= 0.5, truth > 0.5
    held = np.flatnonzero(there.any(axis=0)).tolist()
    found = {at: average_precision(shares[:, at], there[:, at]) for at in held}
    both = int((said & there).sum())
    own, sure = np.where(there, shares, 1 - shares), np.maximum(shares, 1 - shares)
    values = {
        "mAP": float(np.mean([*found.values()])) if found else 0.0,
        "micro_f1": 2 * both / max(1, int(said.sum()) + int(there.sum())),
        "exact": float((said == there).all(axis=1).mean()),
        "log_loss": float(-np.log(np.maximum(own, 1e-12)).mean()),
        "calibration_error": calibration_error(sure.ravel(), (said == there).ravel()),
    }
    per_class = {
        classes[at]: {"images": float(there[:, at].sum()), "average_precision": value}
        for at, value in found.items()
    }
    return Figures("mAP", values, None, per_class)


def average_precision(scores: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> float:
    """Give the mean precision at the places of a ranking where an image has the label.

    Images of equal score stand together: each has the precision and recall of the last of them.

    Args:
        scores: (n,), higher is likelier.
        there: (n,) whether the image has the label; one at least.

    Returns:
        From 0 to 1, as `sklearn.metrics.average_precision_score`.
    """
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(there[order]), scores[order]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """Give the mean gap between probability and accuracy, over bins of equal width.

    Args:
        confidence: (n,) probabilities of the answers.
        right: (n,) whether each is right.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", section 2.
    """
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    mass, hits = np.bincount(place, confidence, BINS), np.bincount(place, right, BINS)
    return float(np.abs(mass - hits).sum() / len(right))
