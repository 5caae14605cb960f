"""Parts compared map by map: distances, what is usual, and the sum, against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfar.analysis.whitened import RIDGE, Whitened, WhitenedMap, usual


def some(count: int, height: int = 6, width: int = 5, seed: int = 0) -> torch.Tensor:
    """Features of pictures: (count, 12, height, width)."""
    return torch.randn(count, 12, height, width, generator=torch.Generator().manual_seed(seed))


def mahalanobis(normal: torch.Tensor) -> np.ndarray:
    """Of (n, 12, h, w): the inverse of the covariance, with the ridge."""
    rows = normal.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    covariance = np.cov(rows.T, bias=True)
    ridge = RIDGE + 12 / len(rows)
    return np.linalg.inv(covariance + ridge * np.trace(covariance) / 12 * np.eye(12))


def distances(asked: torch.Tensor, bank: torch.Tensor, inverse: np.ndarray) -> list[float]:
    """Of each patch of `asked` to the nearest one of `bank`."""
    points, rows = (x.permute(0, 2, 3, 1).flatten(0, 2).double().numpy() for x in (asked, bank))
    return [min(float((p - b) @ inverse @ (p - b)) ** 0.5 for b in rows) for p in points]


def test_a_whitened_map_gives_mahalanobis_distances_to_the_nearest_patch() -> None:
    scale = torch.logspace(-1, 1, 12)[None, :, None, None]  # directions of quite different variance
    normal, asked = some(8) * scale, some(2, seed=5) * scale
    made = WhitenedMap()
    for row, one in enumerate(normal[:6]):
        made.add(one[None], row, row)
    made.settle()
    inverse, usual = mahalanobis(normal[:6]), made.usual.tolist()
    slow = np.array(distances(asked, normal[:6], inverse))
    places, scores = made.score(asked)
    assert places.flatten().tolist() == pytest.approx(list(slow / usual[0]), rel=1e-3)
    worst = np.sort(slow.reshape(2, 30))[:, -1]  # 3 % of 30 places: one
    assert scores.tolist() == pytest.approx(list((worst - usual[1]) / usual[2]), rel=1e-3)
    again = WhitenedMap()
    again.load(made.state())
    for row, one in enumerate(normal[6:]):
        again.add(one[None], 6 + row, row)
    again.settle()  # the covariance stays, the new patches are whitened by it
    more = np.array(distances(asked, normal, inverse))
    assert again.score(asked)[0].flatten().tolist() == pytest.approx(list(more / usual[0]), rel=1e-3)


def test_what_is_usual_comes_from_pictures_that_are_held_out() -> None:
    normal = some(9)
    made = WhitenedMap()
    for row, one in enumerate(normal):
        made.add(one[None], row, row)
    rows, owners = made.pooled()
    away, scores = [], []
    for fold in range(4):
        inside = normal[[row for row in range(9) if row % 4 != fold]]
        for out in range(fold, 9, 4):
            found = distances(normal[out : out + 1], inside, mahalanobis(inside))
            away += found
            scores.append(max(found))
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    square = (9 * ((high - low) / 1.349) ** 2 + 8 * (0.2 * middle) ** 2) / 17  # a score is of one place
    assert usual(rows, owners).tolist() == pytest.approx([np.mean(away), middle, square**0.5], rel=1e-3)
    # New pictures of the same kind have scores about 0 (a little less: the bank is larger than in a fold).
    made.settle()
    assert abs(float(made.score(some(40, seed=3))[1].mean())) < 2
    one = usual(rows[owners == 3], owners[owners == 3])
    assert bool(one.isfinite().all()) and float(one.min()) > 0
    assert usual(rows[:1], owners[:1]).tolist() == [1, 1, 1]


def test_whitened_adds_up_maps_of_which_one_has_a_hundred_times_the_values() -> None:
    fine, coarse = some(12, 8, 6), 100 * some(12, 4, 3, seed=1)
    made = Whitened((8, 6))
    for row in range(10):
        made.add([fine[row : row + 1], coarse[row : row + 1]], row, row)
    made.settle()
    maps = [fine[10:].clone(), coarse[10:].clone()]
    places, scores = made.score(maps)
    parts = [bank.score(one) for bank, one in zip(made.banks, maps, strict=True)]
    assert torch.allclose(scores, (parts[0][1] + parts[1][1]) / 2)
    wide = torch.nn.functional.interpolate(parts[1][0][:, None], (8, 6), mode="bilinear")[:, 0]
    assert torch.allclose(places, (parts[0][0] + wide / 4) / 1.25)
    for odd in range(2):  # a defect on either map alone is found
        spoilt = [one.clone() for one in maps]
        spoilt[odd][0, :, 1, 2] *= 4
        worse = made.score(spoilt)[1]
        assert float(worse[0] - scores[0]) > 2 and float(worse[1]) == pytest.approx(float(scores[1]))
    again = Whitened((8, 6))
    again.load(made.state())
    assert torch.equal(again.score(maps)[1], scores)
