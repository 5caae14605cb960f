"""Finds the images that are unlike the normal ones: their scores, and a threshold with a guarantee."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.errors import NearfarError, nearest
from ..core.intervals import LEVEL, RESAMPLES
from ..core.text import counted
from . import conformal
from .anomaly_detectors import DETECTORS, K, Scores, Vectors, centred, detector, left_out

SHARE, MOST = 0.04, 50  # of all images, where none is known to be normal; see `neighbour`
CONFIDENCE = 0.9  # of the interval for the false-positive rate that one set of held-out images leads to

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """A score above which an image is flagged, and what that guarantees.

    If the held-out normal images and a new normal one could have come in any order, the new one is flagged
    with a chance of at most `fpr`, on average over held-out sets. With this very set the chance lies
    between `low` and `high` in nine of ten cases. There is no guarantee of how many anomalies are found.

    Source:
        Split conformal prediction: Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world";
        Bates et al. 2023, "Testing for outliers with conformal p-values".
    """

    value: float
    fpr: float
    held_out: int
    low: float
    high: float

    def __str__(self) -> str:
        """Say what is guaranteed."""
        return self.said()

    def said(self, noun: str = "images") -> str:
        """Say what is guaranteed of `noun`, such as clips."""
        return (
            f"{noun.capitalize()} above {self.value:.4g} are flagged: at most {100 * self.fpr:g} % of new "
            f"normal {noun} like the {self.held_out:,} held out, on average; with these, "
            f"{100 * self.low:.1f} to {100 * self.high:.1f} % in {10 * CONFIDENCE:.0f} of 10 cases."
        )


@dataclass(frozen=True)
class DetectionScores:
    """How well scores tell anomalous images from normal ones: each figure with the ends of its interval.

    Attributes:
        auroc: chance that an anomalous image scores higher than a normal one; 0.5 is chance.
        ap: average precision; chance is the share of anomalous images.
        normal, anomalous: how many images of each there were.
    """

    auroc: tuple[float, float, float]
    ap: tuple[float, float, float]
    normal: int
    anomalous: int

    def to_json(self) -> dict[str, Any]:
        """Give the figures in plain values."""
        ends = ("value", "low", "high")
        return {
            "auroc": dict(zip(ends, self.auroc, strict=True)),
            "ap": dict(zip(ends, self.ap, strict=True)),
            "normal": self.normal,
            "anomalous": self.anomalous,
        }

    def __str__(self) -> str:
        """Write both figures with their intervals."""
        return self.said()

    def said(self, noun: str = "images") -> str:
        """Write both figures with their intervals, and what they are of; `noun` ends with s."""
        figures = [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in (self.auroc, self.ap)]
        return (
            f"AUROC {figures[0]}, average precision {figures[1]}: "
            f"{counted(self.anomalous, f'anomalous {noun[:-1]}')} among {self.normal:,} normal ones."
        )


@dataclass(frozen=True)
class AnomalyScores:
    """Scores of n images, and the threshold if normal ones were named.

    Attributes:
        scores: (n,) float64; higher is more anomalous. No image was scored by a detector fitted on it, but by
            a forest or a covariance of all images where none is named normal.
        unseen: (n,) bool, the images that the detector was not fitted on at all.
        threshold: what is flagged; None where nothing is known to be normal.
    """

    scores: Scores
    unseen: Flags
    threshold: Threshold | None

    @property
    def flagged(self) -> Flags | None:
        """(n,) bool: scores above the threshold."""
        return None if self.threshold is None else self.scores > self.threshold.value

    def to_json(self) -> dict[str, Any]:
        """Give everything in plain values."""
        flagged = self.flagged
        return {
            "scores": self.scores.tolist(),
            "threshold": None if self.threshold is None else vars(self.threshold),
            "flagged": None if flagged is None else flagged.tolist(),
        }


def neighbour(count: int) -> int:
    """Choose the k of k-NN among images of which none is known to be normal.

    Fewer than k odd images that are alike do not hide one another, and a normal kind of fewer images than k
    counts as odd.

    Args:
        count: how many images there are.

    Returns:
        4 % of them, from 5 to 50.
    """
    return max(K, min(MOST, round(SHARE * count)))


def score_anomalies(
    x: Vectors,
    normal: Flags | None = None,
    method: str = "knn",
    k: int | None = None,
    fpr: float = 0.05,
    seed: int = 0,
    noun: str = "images",
) -> AnomalyScores:
    """Score images by how anomalous they are.

    With normal images named, half of them, drawn by `seed`, fit the detector that scores all others; the
    other half, held out, sets the threshold. The first half is scored by a detector fitted on the second.
    Without, each image is scored against all others, and anomalous ones that have many like them pass.

    Args:
        x: (n, d) float32 features.
        normal: (n,) bool, the images known to be normal; None if nothing is known.
        method, k: as for `detector`; with None, k is 5 among normal images, and else `neighbour`.
        fpr: false-positive rate: share of normal images that may be flagged, above 0 and below 1.
        seed: random seed of the halves and the trees.
        noun: the word for what is scored, in errors.

    Returns:
        Scores; `unseen` leaves out the half that was fitted on.

    Raises:
        NearfarError: the method is unknown, `fpr` is out of range, or there are too few images.
    """
    check_detection(method, k, fpr)
    if k is None:
        k = neighbour(len(x)) if normal is None else K
    if normal is None:
        return AnomalyScores(left_out(x, method, k, seed), np.ones(len(x), np.bool_), None)
    known = np.flatnonzero(normal)
    if len(known) < 2 * max(2, k):
        raise NearfarError(
            f"{counted(len(known), f'normal {noun[:-1]} is')} too few for k = {k}: half of them are held "
            f"out; name at least {2 * max(2, k)}."
        )
    known = known[rng.permutation(rng.fold(seed, "held-out normal images"), len(known))]
    fitted, held = np.split(known, [len(known) // 2])
    rest = np.ones(len(x), np.bool_)
    rest[fitted] = False
    scores = np.empty(len(x), np.float64)
    at_zero = method != "csi" and centred(x[fitted])  # for both detectors, so that all scores are of one kind
    scores[rest] = detector(x[fitted], method, k, seed, at_zero=at_zero)(x[rest])
    scores[fitted] = detector(x[held], method, k, seed, at_zero=at_zero)(x[fitted])
    return AnomalyScores(scores, rest, threshold(scores[held], fpr, noun))


def check_detection(method: str, k: int | None, fpr: float) -> None:
    """Refuse settings that no collection can be scored with, before there is anything to score.

    Args:
        method, k, fpr: as `score_anomalies` takes them.
    """
    if method not in DETECTORS:
        raise NearfarError(f"--method {method!r} is not an anomaly detector; {nearest(method, DETECTORS)}")
    if k is not None and k < 1:
        raise NearfarError(f"--k is {k}; give 1 or more.")
    _check_rate(fpr)


def _check_rate(fpr: float) -> None:
    if not 0 < fpr < 1:
        raise NearfarError(f"--fpr is {fpr:g}; it must lie between 0 and 1, such as 0.05.")


def threshold(held: Scores, fpr: float, noun: str = "images") -> Threshold:
    """Choose the score above which images are flagged.

    Args:
        held: (m,) scores of normal images that the detector was not fitted on.
        fpr: false-positive rate: share of normal images that may be flagged, above 0 and below 1.
        noun: the word for what is scored, in errors.

    Returns:
        The lowest of the held-out scores that keeps the guarantee.

    Raises:
        NearfarError: the rate is no such share, or too small for so few images.
    """
    from scipy.special import betaincinv

    _check_rate(fpr)
    above, value = conformal.rank(len(held), fpr), conformal.threshold(held, fpr)
    if value is None:
        least = conformal.least_count(fpr)
        raise NearfarError(
            f"{len(held)} held-out normal {noun} cannot guarantee {100 * fpr:g} % false positives; name "
            f"at least {2 * least:,} normal {noun}, or allow a higher rate with --fpr."
        )
    low, high = betaincinv(above, len(held) + 1 - above, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Threshold(value, fpr, len(held), float(low), float(high))


def score_detection(scores: Scores, anomalous: Flags, seed: int = 0, noun: str = "images") -> DetectionScores:
    """Evaluate scores on images that are known to be normal or anomalous.

    Args:
        scores: (n,), higher is more anomalous.
        anomalous: (n,) bool, with some of either kind.
        seed: random seed of the resamples, of anomalous and of normal images apart.
        noun: the word for what is scored, in errors.

    Returns:
        AUROC and average precision, each with its 95 % bootstrap interval.

    Raises:
        NearfarError: all or none are anomalous.
    """
    many = int(anomalous.sum())
    if many in (0, len(anomalous)):
        which = "all" if many else "none"
        raise NearfarError(
            f"{which} of {len(anomalous):,} {noun} are anomalous; give both normal and anomalous {noun}."
        )
    _, place = np.unique(-scores, return_inverse=True)
    kinds = (anomalous, ~anomalous)
    draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "bootstrap")))

    def curve(weights: list[npt.NDArray[np.int64]]) -> tuple[float, float]:
        hits, misses = (
            np.bincount(place[kind], weight, place.max() + 1)
            for kind, weight in zip(kinds, weights, strict=True)
        )
        found, wrong = hits.cumsum(), misses.cumsum()
        area = (misses * (found - hits / 2)).sum() / (found[-1] * wrong[-1])
        seen = np.maximum(found + wrong, 1)
        return float(area), float((hits * found / seen).sum() / found[-1])

    counts = [int(kind.sum()) for kind in kinds]
    value = curve([np.ones(count, np.int64) for count in counts])
    again = np.array(
        [
            curve([np.bincount(draws.integers(count, size=count), minlength=count) for count in counts])
            for _ in range(RESAMPLES)
        ]
    )
    low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).tolist()
    auroc, ap = zip(value, low, high, strict=True)
    return DetectionScores(auroc, ap, counts[1], counts[0])
