"""Figures about maps agree with scikit-learn and with slow counting."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from nearfar.analysis.pixel_scores import PixelCounter, best_f1
from nearfar.data.defects import regions_of


def pictures(count: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps and masks of odd sizes; half of the pictures have one to three defects."""
    draws = np.random.default_rng(0)
    found = []
    for number in range(count):
        height, width = 30 + number, 45 - 2 * number
        mask = np.zeros((height, width), bool)
        for _ in range(number % 2 * (1 + number % 3)):
            top, left = draws.integers(0, height - 6), draws.integers(0, width - 8)
            mask[top : top + draws.integers(1, 6), left : left + draws.integers(1, 8)] = True
        scores = (draws.gamma(2.0, 1.0, mask.shape) + 2 * mask * draws.random(mask.shape)).astype("f4")
        found.append((scores, mask))
    return found


def counted(made: list[tuple[np.ndarray, np.ndarray]]) -> PixelCounter:
    counter = PixelCounter()
    for number, (scores, mask) in enumerate(made):
        counter.add(scores, regions_of(mask), "hole" if number % 4 == 1 else "scratch")
    return counter


def slow_aupro(made: list[tuple[np.ndarray, np.ndarray]], limit: float) -> float:
    """The curve at every score, each region counted by itself."""
    normal = np.concatenate([scores[~mask] for scores, mask in made])
    regions = []
    for scores, mask in made:
        numbered = regions_of(mask)
        regions += [scores[numbered == number] for number in range(1, numbered.max() + 1)]
    points = [(0.0, 0.0)]
    for at in np.unique(np.concatenate([normal, *regions]))[::-1]:
        points.append((float((normal >= at).mean()), float(np.mean([(one >= at).mean() for one in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def test_figures_of_pixels() -> None:
    made = pictures()
    found = counted(made).measure()
    assert found is not None
    scores = np.concatenate([one.ravel() for one, _ in made])
    truth = np.concatenate([mask.ravel() for _, mask in made])
    assert found.auroc[0] == pytest.approx(roc_auc_score(truth, scores), abs=1e-3)
    assert found.aupro[0] == pytest.approx(slow_aupro(made, 0.3), abs=2e-3)
    precision, recall, _ = precision_recall_curve(truth, scores)
    slow = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert found.f1[0] == pytest.approx(slow, abs=2e-3)
    assert f1_score(truth, scores >= found.threshold) == pytest.approx(found.f1[0], abs=1e-9)
    assert found.regions == sum(regions_of(mask).max() for _, mask in made)
    for value, low, high in (found.auroc, found.aupro, found.f1):
        assert low <= value <= high and high - low > 0.001


def test_a_kind_is_measured_against_all_normal_pixels() -> None:
    made = pictures()
    counter = counted(made)
    assert counter.kinds == ("hole", "scratch")
    found = counter.measure("hole")
    normal = np.concatenate([scores[~mask] for scores, mask in made])
    odd = np.concatenate([scores[mask] for number, (scores, mask) in enumerate(made) if number % 4 == 1])
    slow = roc_auc_score([0] * len(normal) + [1] * len(odd), np.concatenate([normal, odd]))
    assert found is not None and found.auroc[0] == pytest.approx(slow, abs=1e-3)


def test_kinds_of_regions_in_one_picture() -> None:
    scores = np.ones((10, 10), np.float32)
    regions = np.zeros((10, 10), np.int32)
    regions[:2, :2], regions[5:7, 5:7] = 1, 2
    scores[:2, :2] = 5
    counter = PixelCounter()
    counter.add(scores, regions, {1: "open", 2: "short"})
    opened, short = counter.measure("open"), counter.measure("short")
    assert opened is not None and short is not None
    assert opened.auroc[0] == 1.0 and short.auroc[0] == 0.5
    assert opened.regions == short.regions == 1 and opened.aupro[0] == 1.0


def test_nothing_to_measure() -> None:
    counter = PixelCounter()
    counter.add(np.ones((4, 4), np.float32), np.zeros((4, 4), np.int32))
    assert counter.measure() is None and counter.kinds == ()


def test_a_defect_touching_by_a_corner_is_one() -> None:
    mask = np.zeros((5, 5), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = 255
    assert regions_of(mask).max() == 2


def test_best_f1_is_the_best_of_all_thresholds() -> None:
    draws = np.random.default_rng(1)
    scores = draws.integers(0, 12, 60).astype(float)
    truth = draws.random(60) < scores / 15
    value, threshold = best_f1(scores, truth)
    slow = max((f1_score(truth, scores >= at), at) for at in np.unique(scores))
    assert value == pytest.approx(slow[0]) and f1_score(truth, scores >= threshold) == pytest.approx(value)
