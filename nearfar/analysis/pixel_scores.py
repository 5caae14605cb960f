"""Measures how well maps of anomaly scores agree with masks: pixel AUROC, AUPRO and the best F1, by kind.

Scores of single pixels are not kept. Each picture's are counted by the leading bits of their float32, which
makes 512 bins a doubling. So memory does not grow with pixels, and resampling costs a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.intervals import LEVEL

DROPPED = 14  # bits of a float32 that are not looked at: 9 of the mantissa's 23 are left
LIMIT = 0.3  # false-positive rate up to which AUPRO is integrated
RESAMPLES = 200

Scores = npt.NDArray[np.float32]
Counts = npt.NDArray[np.float64]
Figure = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class PixelScores:
    """How well maps agree with masks; each figure with the ends of its 95 % bootstrap interval over pictures.

    Attributes:
        auroc: chance that an anomalous pixel scores higher than a normal one.
        aupro: mean share of a defect that is covered, averaged over false-positive rates of pixels up to 0.3.
        f1: the best harmonic mean of precision and recall of pixels over all thresholds.
        threshold: where it is reached: pixels that score at least this much are taken for anomalous.
        regions: number of defects.
    """

    auroc: Figure
    aupro: Figure
    f1: Figure
    threshold: float
    regions: int

    def to_json(self) -> dict[str, Any]:
        """Give the figures in plain values."""
        ends = ("value", "low", "high")
        named = {name: dict(zip(ends, getattr(self, name), strict=True)) for name in ("auroc", "aupro", "f1")}
        return {**named, "threshold": self.threshold, "regions": self.regions}


class PixelCounter:
    """Counts the scores of pixels, picture by picture."""

    def __init__(self) -> None:
        """Begin without pictures."""
        # Of a picture: bins and their normal pixels; by kind, bins, anomalous pixels, shares of defects.
        self._normal: list[tuple[npt.NDArray[np.int64], Counts]] = []
        self._odd: list[dict[str, tuple[npt.NDArray[np.int64], Counts, Counts, int]]] = []

    def add(
        self, scores: Scores, regions: npt.NDArray[np.int32], kinds: dict[int, str] | str = "defect"
    ) -> None:
        """Count a picture's pixels.

        Args:
            scores: (h, w) float32, at least 0.
            regions: (h, w), 0 where normal, else the number of the defect, as `data.defects` gives it.
            kinds: the kind of each numbered defect, or of all.
        """
        bins = np.ascontiguousarray(scores, np.float32).view(np.int32).ravel() >> DROPPED
        marks = regions.ravel()
        used, count = np.unique(bins[marks == 0], return_counts=True)
        self._normal.append((used.astype(np.int64), count.astype(np.float64)))
        parts: dict[str, list[tuple[npt.NDArray[np.int32], float]]] = {}
        for number in np.unique(marks[marks > 0]).tolist():
            own = bins[marks == number]
            kind = kinds if isinstance(kinds, str) else kinds[number]
            parts.setdefault(kind, []).append((own, 1 / len(own)))
        found = {}
        for kind, some in parts.items():
            every = np.concatenate([own for own, _ in some])
            weight = np.concatenate([np.full(len(own), each) for own, each in some])
            used, at = np.unique(every, return_inverse=True)
            found[kind] = (
                used.astype(np.int64),
                np.bincount(at).astype(np.float64),
                np.bincount(at, weight).astype(np.float64),
                len(some),
            )
        self._odd.append(found)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of defects seen, in the order of the alphabet."""
        return tuple(sorted({kind for found in self._odd for kind in found}))

    def measure(self, kind: str | None = None, seed: int = 0) -> PixelScores | None:
        """Compute the figures.

        Args:
            kind: defects of this kind alone; of all kinds if None. Normal pixels are those of all pictures.
            seed: random seed of the resamples.

        Returns:
            The figures; None where there is no normal or no anomalous pixel.
        """
        chosen = [[own for name, own in found.items() if kind in (None, name)] for found in self._odd]
        bins = np.unique(
            np.concatenate([used for used, _ in self._normal] + [one[0] for some in chosen for one in some])
        )[::-1]  # the highest scores first
        normal, odd, covered = (np.zeros((len(chosen), len(bins))) for _ in range(3))
        place = {int(value): at for at, value in enumerate(bins)}
        for row, ((used, count), some) in enumerate(zip(self._normal, chosen, strict=True)):
            normal[row, [place[value] for value in used.tolist()]] = count
            for used, pixels, share, _ in some:
                at = [place[value] for value in used.tolist()]
                odd[row, at] += pixels
                covered[row, at] += share
        regions = sum(one[3] for some in chosen for one in some)
        if not normal.any() or not odd.any():
            return None

        def figures(weight: Counts) -> tuple[list[float], int]:
            return _figures(weight @ normal, weight @ odd, weight @ covered)

        values, best = figures(np.ones(len(chosen)))
        draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "bootstrap of pictures")))
        again = _resampled(figures, len(chosen), draws)
        low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).tolist()
        auroc, aupro, f1 = zip(values, low, high, strict=True)
        threshold = float(np.array([bins[best] << DROPPED], np.int32).view(np.float32)[0])
        return PixelScores(auroc, aupro, f1, threshold, regions)


def _resampled(
    figures: Callable[[Counts], tuple[list[float], int]], count: int, draws: np.random.Generator
) -> list[list[float]]:
    """Measure resamples of the pictures; those without a normal or an anomalous pixel count for nothing."""
    found = []
    for _ in range(RESAMPLES):
        weight = np.bincount(draws.integers(count, size=count), minlength=count).astype(np.float64)
        values = figures(weight)[0]
        if np.isfinite(values).all():
            found.append(values)
    return found or [figures(np.ones(count))[0]]


def _figures(normal: Counts, odd: Counts, covered: Counts) -> tuple[list[float], int]:
    """Compute pixel AUROC, AUPRO and the best F1 of counts in bins, the highest first; and its bin."""
    wrong, right, share = normal.cumsum(), odd.cumsum(), covered.cumsum()
    if not wrong[-1] or not right[-1]:
        return [np.nan] * 3, 0
    auroc = (normal * (right - odd / 2)).sum() / (wrong[-1] * right[-1])
    f1 = 2 * right / (wrong + right + right[-1])
    best = int(f1.argmax())
    rate = np.concatenate([[0.0], wrong / wrong[-1]])
    overlap = np.concatenate([[0.0], share / share[-1]])
    return [float(auroc), area_below(rate, overlap, LIMIT), float(f1[best])], best


def area_below(rate: Counts, value: Counts, limit: float) -> float:
    """Integrate a curve from 0 to a limit and divide by it.

    Args:
        rate: (n,) ascending, from 0 to 1.
        value: (n,) at these.
        limit: where the integral ends, above 0.

    Returns:
        The mean value, between the points of the curve on straight lines.

    Source:
        Bergmann et al. 2021, "The MVTec anomaly detection dataset", section 5.2 (the per-region overlap).
    """
    inside = rate <= limit
    x, y = rate[inside], value[inside]
    if x[-1] < limit:
        after = int(inside.sum())
        slope = (value[after] - y[-1]) / (rate[after] - x[-1])
        x, y = np.append(x, limit), np.append(y, y[-1] + slope * (limit - x[-1]))
    return float(np.trapezoid(y, x) / limit)


def best_f1(scores: npt.NDArray[Any], anomalous: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Find the threshold with the best F1.

    Args:
        scores: (n,), higher is more anomalous.
        anomalous: (n,) bool, some true.

    Returns:
        The F1, and the threshold: what scores at least this much is taken for anomalous.
    """
    order = np.argsort(-scores, kind="stable")
    right = anomalous[order].cumsum()
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + right[-1])
    last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores all are taken
    best = int(np.where(last, f1, -1).argmax())
    return float(f1[best]), float(scores[order][best])
