"""Makes probabilities of logits: a temperature from held-out images, and a threshold for none of these."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..analysis import conformal

Logits = npt.NDArray[np.float32]
LOWEST, HIGHEST = 0.05, 20.0  # temperatures tried
FOLDS = 20
GOLDEN = (math.sqrt(5) - 1) / 2


def temperature(logits: Logits, truth: npt.NDArray[np.generic]) -> float:
    """Find the temperature whose probabilities make held-out labels likeliest.

    Args:
        logits: (n, classes) of images that were not trained on.
        truth: (n,) classes, or (n, classes) of 0 and 1 for several labels an image.

    Returns:
        By which logits are divided: above 1 where the network is too sure of itself.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", section 4.2; targets that leave some
        doubt after Platt 1999, "Probabilistic outputs for support vector machines", section 2.2.
    """
    x, y = torch.from_numpy(logits).double(), torch.from_numpy(np.asarray(truth))
    doubt = 1 / (len(y) + 2)  # else few images without a mistake would make it as sure as can be

    def loss(power: float) -> float:
        scaled = x / math.exp(power)
        if y.dim() == 2:
            return float(F.binary_cross_entropy_with_logits(scaled, y.double() * (1 - doubt) + doubt / 2))
        return float(F.cross_entropy(scaled, y, label_smoothing=doubt))

    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(40):  # the loss has one minimum in the inverse of the temperature: golden section
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, b) if loss(a) <= loss(b) else (a, high)
    return math.exp((low + high) / 2)


def crossed(
    logits: Logits, truth: npt.NDArray[np.generic], groups: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float64]:
    """Find a temperature for each image from the others, so that it may be measured on these very images.

    Args:
        logits, truth: as `temperature`'s.
        groups: (n,) numbers of groups, such as patients, of which one helps no other image of it; or None.

    Returns:
        (n, 1), a temperature for each image, fitted on those outside its fold.
    """
    units = np.arange(len(logits)) if groups is None else np.unique(groups, return_inverse=True)[1]
    fold, found = units % FOLDS, np.empty((len(logits), 1))
    for at in np.unique(fold):
        own = fold == at
        rest = ~own if not own.all() else own
        found[own] = temperature(logits[rest], truth[rest])
    return found


def probabilities(logits: Logits, by: float | npt.NDArray[np.float64], many: bool) -> npt.NDArray[np.float64]:
    """Turn logits into probabilities.

    Args:
        logits: (n, classes).
        by: the temperature, or (n, 1) one for each image.
        many: whether an image has several labels, each with a probability of its own.

    Returns:
        (n, classes); of one class an image, rows sum to 1.
    """
    x = torch.from_numpy(np.asarray(logits, np.float64) / by)
    return np.asarray((torch.sigmoid(x) if many else torch.softmax(x, 1)).numpy())


def least_probability(known: npt.NDArray[np.float64], reject: float) -> float | None:
    """Choose the probability below which an image is none of the classes, by the share that is turned away.

    Args:
        known: (m,) the greatest probability of each held-out image of the classes.
        reject: share of images of these classes that may fall below, 0 to below 1.

    Returns:
        The threshold: a new image of these classes falls below it with a chance of at most `reject`, if
        nothing was fitted to or chosen on the held-out images, else with about that chance; None where
        `reject` is 0 or m too small.
    """
    found = conformal.threshold(-known, reject)
    return None if found is None else -found
