"""How good predicted classes and labels are: accuracy, calibration error, mean average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..analysis.chance import chance_precision
from ..core import rng
from ..core.intervals import RESAMPLES, ends, resampling_weights, units_of, wilson
from ..data.modalities import modality
from . import calibrate
from .task_types import Figures, Labelled, Mistake, Rows

BINS = 15  # of the calibration error
LABEL_RESAMPLES = 200  # for the interval of a figure over several labels

Logits = npt.NDArray[np.float32]


def of_classes(
    logits: Logits,
    truth: Rows,
    classes: Sequence[str],
    temperature: float | npt.NDArray[np.float64],
    *,
    balanced: bool = False,
    groups: Rows | None = None,
) -> Figures:
    """Measure predictions of one class an image.

    Args:
        logits: (n, classes).
        truth: (n,) class numbers.
        classes: their names.
        temperature: by which logits are divided, or (n, 1) one for each image.
        balanced: whether the main figure is the mean of the classes' accuracies.
        groups: (n,) numbers of the groups that images belong to, over which the interval is; or None.

    Returns:
        accuracy, balanced_accuracy, the 95 % interval of the main one (low, high), log_loss,
        calibration_error; recall and precision of each class.
    """
    shares = calibrate.probabilities(logits, temperature, False)
    said = shares.argmax(axis=1)
    right = said == truth
    there = np.bincount(truth, minlength=len(classes))
    hits = np.bincount(truth[right], minlength=len(classes))
    claimed = np.bincount(said, minlength=len(classes))
    own = shares[np.arange(len(truth)), truth]
    # So weighed that the mean over images is the mean over the classes that are there.
    weigh = len(truth) / ((there > 0).sum() * np.maximum(there, 1))
    per_image = np.asarray(right * (weigh[truth] if balanced else 1.0), np.float64)
    if balanced or units_of(groups) is not None:
        low, high = _resampled(per_image, groups)
    else:
        low, high = wilson(int(right.sum()), len(right))
    values = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float((hits[there > 0] / there[there > 0]).mean()),
        "low": low,
        "high": high,
        "log_loss": float(0.0 - np.log(np.maximum(own, 1e-12)).mean()),
        "calibration_error": calibration_error(shares.max(axis=1), right),
    }
    values["chance"] = 1 / max(1, int((there > 0).sum())) if balanced else float(there.max() / len(truth))
    main = "balanced_accuracy" if balanced else "accuracy"
    per_class = {
        name: {
            "images": float(there[at]),
            **({"recall": float(hits[at] / there[at])} if there[at] else {}),
            **({"precision": float(hits[at] / claimed[at])} if claimed[at] else {}),
        }
        for at, name in enumerate(classes)
    }
    return Figures(main, values, per_image, per_class, groups)


def of_labels(
    logits: Logits,
    truth: npt.NDArray[np.float32],
    classes: Sequence[str],
    temperature: float | npt.NDArray[np.float64],
    groups: Rows | None = None,
) -> Figures:
    """Measure predictions of several labels an image.

    Args:
        logits: (n, classes).
        truth: (n, classes) of 0 and 1.
        classes: names of the labels.
        temperature: by which logits are divided, or (n, 1) one for each image.
        groups: (n,) numbers of the groups that images belong to, over which the interval is; or None.

    Returns:
        mAP, the mean over labels that are there of their average precision, with its 95 % interval (low,
        high); micro_f1 and exact at 0.5; log_loss and
        calibration_error over all pairs of image and label; chance, the mAP of images in any order; average
        precision of each label.
    """
    shares = calibrate.probabilities(logits, temperature, True)
    said, there = shares >= 0.5, truth > 0.5
    held = np.flatnonzero(there.any(axis=0)).tolist()
    found = {at: average_precision(shares[:, at], there[:, at]) for at in held}
    chance = chance_precision(there[:, held].sum(0), np.full(len(held), len(there)))
    both = int((said & there).sum())
    own, sure = np.where(there, shares, 1 - shares), np.maximum(shares, 1 - shares)
    low, high = _interval_of_labels(shares[:, held], there[:, held], groups) if held else (0.0, 0.0)
    values = {
        "mAP": float(np.mean([*found.values()])) if found else 0.0,
        "low": low,
        "high": high,
        "micro_f1": 2 * both / max(1, int(said.sum()) + int(there.sum())),
        "exact": float((said == there).all(axis=1).mean()),
        "log_loss": float(0.0 - np.log(np.maximum(own, 1e-12)).mean()),
        "calibration_error": calibration_error(sure.ravel(), (said == there).ravel()),
        "chance": float(np.mean(chance)) if held else 0.0,
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


def _resampled(values: npt.NDArray[np.float64], groups: Rows | None) -> tuple[float, float]:
    """Give the ends between which 95 % of the means of resampled values lie."""
    weights = resampling_weights(len(values), RESAMPLES, rng.fold(0, "bootstrap of images"), groups)
    return ends(weights @ values / weights.sum(1))


def _interval_of_labels(
    shares: npt.NDArray[np.float64], there: npt.NDArray[np.bool_], groups: Rows | None
) -> tuple[float, float]:
    """Draw images again and again, and give the ends between which 95 % of the mAP lie."""
    key = rng.fold(0, "bootstrap of images")
    weights = resampling_weights(len(there), LABEL_RESAMPLES, key, groups)
    total, count = np.zeros(LABEL_RESAMPLES), np.zeros(LABEL_RESAMPLES)
    for scores, own in zip(shares.T, there.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        each, ranked = weights[:, order], scores[order]
        hits, seen = np.cumsum(each * own[order], axis=1), np.cumsum(each, axis=1)
        last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
        hits, seen, every = hits[:, last], seen[:, last], hits[:, -1:]
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        step = np.diff(hits, prepend=0.0, axis=1)
        found = np.divide(
            (precision * step).sum(1), every[:, 0], out=np.zeros(len(hits)), where=every[:, 0] > 0
        )
        total, count = total + found, count + (every[:, 0] > 0)
    return ends(total[count > 0] / count[count > 0])  # one that drew no label has no mAP


def mistakes(
    logits: Logits, data: Labelled, classes: Sequence[str], temperature: float, *, many: bool, count: int
) -> list[Mistake]:
    """Find the images that are answered wrongly, those first of which the network is surest.

    Args:
        logits: (n, classes).
        data: n images.
        classes: their names.
        temperature: by which logits are divided.
        many: whether an image has several labels.
        count: how many, at most.
    """
    shares = calibrate.probabilities(logits, temperature, many)
    if many:
        said, there = shares >= 0.5, data.targets > 0.5
        wrong, doubt = (said != there).any(1), np.where(there, 1 - shares, shares).max(1)
    else:
        said, there = shares.argmax(1), data.targets
        wrong, doubt = said != there, shares.max(1)
    rows = np.flatnonzero(wrong)
    rows = rows[np.argsort(-doubt[rows], kind="stable")][:count]
    shown = modality(data.dataset.modality).pictures

    def told(row: int) -> str:
        if not many:
            share = 100 * shares[row, said[row]]
            return f"{classes[said[row]]} {share:.0f} %, is {classes[there[row]]}"
        answer, truth = (
            ", ".join(classes[at] for at in np.flatnonzero(some[row]).tolist()) for some in (said, there)
        )
        return f"{answer or 'nothing'}, is {truth or 'nothing'}"

    return [
        Mistake(data.dataset.ids[row], told(row), [("", data.dataset[row])] if shown else [])
        for row in rows.tolist()
    ]


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
