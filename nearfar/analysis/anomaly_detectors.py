"""Detectors of anomalies: what gives an image a score, fitted on normal images or on a whole collection.

A higher score is always more anomalous. Three detectors for any encoder's vectors: the distance to the k-th
nearest normal image, which is the safe default; the Mahalanobis distance, for normal images that make one
cloud; and an isolation forest. Where normal images are of several kinds, the last two take what lies between
the kinds for normal. A fourth, CSI's score, is for vectors that `methods.csi.TurnedVectors` makes.

Vectors are compared by their angles, since lengths say little of kinds. But an image of another world has a
vector that is far too long and points anywhere, so lengths count where they are beyond the usual. And an
encoder that was trained on the normal images alone has their mean at 0, so that their angles say nothing:
then distances are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..core.errors import NearfarError, nearest
from ..core.text import counted
from ..features.knn import top_k, unit

DETECTORS = ("knn", "mahalanobis", "forest", "csi")
TURNS = 4  # in which CSI sees an image
K = 5
TREES = 200
QUERIES = 512  # whose distances to all normal images are in memory at a time
CENTRED = 0.03  # length of the mean of unit vectors, less that of chance, below which they point everywhere
LONG = 3.0  # robust standard deviations above the median from which a length counts
REFERENCE = 2000  # normal images, at most, by which usual scores are told
SPREAD = 1.4826  # standard deviations of a normal distribution in its median absolute deviation

Vectors = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


def detector(
    normal: Vectors, method: str = "knn", k: int = K, seed: int = 0, *, at_zero: bool | None = None
) -> Callable[[Vectors], Scores]:
    """Fit a detector on normal images.

    Args:
        normal: (n, d) float32 features, n at least 2; they are scaled to length 1, as all that is scored is,
            but for "csi", and where their mean is at 0.
        method: one of `DETECTORS`.
        k: the neighbour whose distance counts, for "knn"; at most n. With 1, a single odd image among the
            normal ones hides its like.
        seed: random seed, for "forest".
        at_zero: whether their mean is taken to be at 0; None for what `centred` says of them. Of images that
            are not known to be normal give False: in a collection of several kinds a rare one is told by
            angles alone.

    Returns:
        A function from (q, d) float32 to (q,) scores, higher is more anomalous: 1 - cosine to the k-th
        nearest normal image, or more where a length is unusual, or the distance to it; the squared
        Mahalanobis distance; the forest's score from 0 to 1; or minus the score of CSI, which is about 8 for
        normal images.

    Raises:
        NearfarError: the method is unknown, or there are too few images.

    Source:
        Ramaswamy et al. 2000, "Efficient algorithms for mining outliers from large data sets"; Ledoit and
        Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"; Liu et al. 2008,
        "Isolation forest"; Tack et al. 2020, "CSI", and the authors' code.
    """
    if method not in DETECTORS:
        raise NearfarError(f"--method {method!r} is not an anomaly detector; {nearest(method, DETECTORS)}")
    if len(normal) < max(2, k):
        raise NearfarError(
            f"{counted(len(normal), 'normal example is')} too few for k = {k}; give at least {max(2, k)}, or "
            "a smaller k."
        )
    if method == "csi":
        known = torch.from_numpy(normal)
        return lambda x: _csi(torch.from_numpy(x), known)
    at_zero = centred(normal) if at_zero is None else at_zero
    if method == "knn":
        return _by_distance(normal, k) if at_zero else _by_angle(normal, k)
    scaled = torch.from_numpy if at_zero else _scaled
    rows = scaled(normal)
    if method == "mahalanobis":
        from sklearn.covariance import LedoitWolf

        fitted: Any = LedoitWolf().fit(rows.double().numpy())
        return lambda x: fitted.mahalanobis(scaled(x).double().numpy())
    from sklearn.ensemble import IsolationForest

    key = rng.fold(seed, "isolation forest") % 2**32
    forest: Any = IsolationForest(n_estimators=TREES, random_state=key).fit(rows.numpy())
    return lambda x: -forest.score_samples(scaled(x).numpy())


def _scaled(x: Vectors) -> torch.Tensor:
    return unit(torch.from_numpy(x))


def centred(x: Vectors) -> bool:
    """Tell whether vectors point in all directions alike, as those that an encoder was centred on do.

    Args:
        x: (n, d) float32, n at least 2.
    """
    rows = _scaled(x).double()
    n, squared = len(rows), float(rows.mean(0).square().sum())
    few = rows[:: -(-n // 500)]
    cosines = (few @ few.T).square()
    chance = float((cosines.sum() - cosines.diagonal().sum()) / (len(few) * (len(few) - 1)))
    # The mean of n random directions has a squared length of 1 / n, give or take this.
    return n * squared - 1 - (2 * chance) ** 0.5 < (n - 1) * CENTRED**2


def _by_distance(normal: Vectors, k: int) -> Callable[[Vectors], Scores]:
    rows = torch.from_numpy(normal)

    def scores(x: Vectors) -> Scores:
        _scaled(x)  # refuses what is no number, as the angle does
        parts = torch.from_numpy(x).split(QUERIES)
        found = [torch.cdist(part, rows).kthvalue(k, dim=1).values for part in parts]
        return torch.cat([torch.empty(0), *found]).double().numpy()

    return scores


def _by_angle(normal: Vectors, k: int) -> Callable[[Vectors], Scores]:
    rows = torch.from_numpy(normal)
    few = rows[:: -(-len(rows) // REFERENCE)]
    # One neighbour more, since each of these is its own nearest.
    usual = _Usual.of(1 - top_k(few, rows, min(k + 1, len(rows)))[0][:, -1].double().numpy(), normal)
    return lambda x: usual.raised(1 - top_k(torch.from_numpy(x), rows, k)[0][:, -1].double().numpy(), x)


@dataclass(frozen=True)
class _Usual:
    """Median and spread of the scores and of the lengths of usual images."""

    score: float
    score_spread: float
    length: float
    length_spread: float

    @classmethod
    def of(cls, scores: Scores, x: Vectors) -> _Usual:
        """Measure them."""
        return cls(*_middle(scores), *_middle(np.linalg.norm(x, axis=1)))

    def raised(self, scores: Scores, x: Vectors) -> Scores:
        """Raise the scores of vectors whose length is more unusual than their angle."""
        away = (np.linalg.norm(x, axis=1) - self.length) / max(self.length_spread, 1e-3 * self.length, 1e-12)
        found: Scores = np.maximum(scores, self.score + self.score_spread * (away - LONG))
        return found


def _middle(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Give the median, and the standard deviation as the median absolute deviation tells it."""
    median = float(np.median(values))
    return median, SPREAD * float(np.median(np.abs(values - median)))


def _csi(x: torch.Tensor, known: torch.Tensor, exclude_self: bool = False) -> Scores:
    """Compute minus CSI's score.

    For each turn: the greatest cosine to a normal image in that turn, and what is said for the turn, over its
    mean among normal images. (The authors also count the length of z. The head here ends with a batch norm,
    after which the length told nothing: AUROC 43 and 57 % on two classes.)

    Args:
        x, known: (n, TURNS P + TURNS), as `TurnedVectors` makes them; the images to score, and normal ones.
        exclude_self: `known` is `x`, and an image is not compared with itself.
    """
    z, normal = (rows[:, :-TURNS].unflatten(1, (TURNS, -1)).transpose(0, 1) for rows in (x, known))
    total = (x[:, -TURNS:].double() / known[:, -TURNS:].double().mean(0)).sum(1)
    for own, others in zip(z, normal, strict=True):
        total += top_k(own, others, 1, exclude_self=exclude_self)[0][:, 0].double()
    return -total.numpy()


def left_out(x: Vectors, method: str, k: int, seed: int) -> Scores:
    """Score each image against the others; a forest or a covariance of many hardly knows one image.

    Args:
        x: (n, d) float32 features, or what CSI makes.
        method, k, seed: as for `detector`.

    Returns:
        (n,) scores.

    Raises:
        NearfarError: the method is unknown, or there are too few images.
    """
    if method == "csi":
        rows = torch.from_numpy(x)
        return _csi(rows, rows, exclude_self=True)
    if method != "knn":
        return detector(x, method, k, seed, at_zero=False)(x)
    if len(x) <= k:
        raise NearfarError(f"{counted(len(x), 'vector is')} too few for k = {k}; give at least {k + 1}.")
    rows = torch.from_numpy(x)
    scores = 1 - top_k(rows, rows, k, exclude_self=True)[0][:, -1].double().numpy()
    return _Usual.of(scores, x).raised(scores, x)
