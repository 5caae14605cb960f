"""Which images to label next: typical ones, central ones, those between classes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from small_vectors import blobs, digits  # noqa: F401

from nearfar.analysis import active_learning
from nearfar.core.errors import NearfarError


@pytest.mark.parametrize("method", list(active_learning.STRATEGIES))
def test_suggestions_are_new_and_unlabelled(method: str, digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, truth = digits[0][:500], digits[1][:500]
    labels = np.where(np.arange(500) < 30, truth, -1)
    found = active_learning.suggest_rows(x, labels, 25, method=method)
    assert found.method == method and found.rows.shape == (25,) and found.rows.dtype == np.int64
    assert len(set(found.rows.tolist())) == 25 and (labels[found.rows] == -1).all()
    np.testing.assert_array_equal(active_learning.suggest_rows(x, labels, 25, method=method).rows, found.rows)
    all_ = active_learning.suggest_rows(x, labels, 10_000, method=method).rows
    assert sorted(all_.tolist()) == list(range(30, 500))


def test_typical_images_come_one_from_each_group_the_largest_first() -> None:
    x, y = blobs([40, 20, 30])
    found = active_learning.typical(x, np.full(90, -1), 3)
    assert y[found].tolist() == [0, 2, 1]
    for row, number in zip(found, (0, 2, 1), strict=True):
        own = x[y == number] / np.linalg.norm(x[y == number], axis=1, keepdims=True)
        distance = np.sqrt(((own[:, None] - own[None]) ** 2).sum(-1))
        mean = np.sort(distance, axis=1)[:, 1 : min(20, len(own) - 1) + 1].mean(axis=1)
        assert np.flatnonzero(y == number)[mean.argmin()] == row
    labels = np.where(np.isin(np.arange(90), [0]), 0, -1)  # one group is known already
    assert y[active_learning.typical(x, labels, 2)].tolist() == [2, 1]


def test_k_center_is_the_farthest_first_of_plain_loops() -> None:
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.full(60, -1)
    labels[[4, 9]] = 0
    near, expected = [4, 9], []
    for _ in range(8):
        best = max(
            (i for i in range(60) if i not in near),
            key=lambda i: min(((u[i] - u[j]) ** 2).sum() for j in near),
        )
        near.append(best)
        expected.append(best)
    assert active_learning.k_center(x, labels, 8).tolist() == expected


def test_margins_lie_between_the_classes() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2000, 2)).astype(np.float32)
    x[:, 1] *= 0.3
    labels = np.full(2000, -1)
    labels[:200] = x[:200, 0] > 0
    found = active_learning.margin(x, labels, 20)
    fitted = LogisticRegression().fit(x[:200], labels[:200])
    lead = np.abs(2 * fitted.predict_proba(x)[:, 1] - 1)
    assert (lead[found] < np.quantile(lead[200:], 0.15)).all()
    # They lie on both sides of the other axis, not in one heap.
    assert x[found, 1].std() > 0.5 * x[:, 1].std()
    with pytest.raises(NearfarError, match="two classes"):
        active_learning.margin(x, np.where(labels == 0, 0, -1), 5)


def test_the_way_switches_once_labels_are_enough(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits[0][:600], digits[1][:600]
    for known, method in ((0, "typical"), (50, "typical"), (10 * active_learning.ENOUGH - 1, "typical")):
        assert active_learning.suggest_rows(x, np.where(np.arange(600) < known, y, -1), 5).method == method
    assert (
        active_learning.suggest_rows(
            x, np.where(np.arange(600) < 10 * active_learning.ENOUGH, y, -1), 5
        ).method
        == "margin"
    )
    one = np.where(y == 3, 3, -1)
    assert (
        active_learning.suggest_rows(x, one, 5).method == "typical"
    )  # one class: nothing to be in doubt between
    with pytest.raises(NearfarError, match="did you mean typical"):
        active_learning.suggest_rows(x, one, 5, method="typcal")
    with pytest.raises(NearfarError, match="nothing to suggest"):
        active_learning.suggest_rows(x, y, 5)


def test_typical_images_teach_more_than_random_ones(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    asked, rest = x[:1200], slice(1200, None)

    def accuracy(method: str, seed: int) -> float:
        rows = active_learning.suggest_rows(asked, np.full(1200, -1), 20, method=method, seed=seed).rows
        model = NearestCentroid().fit(x[rows], y[rows])
        return float((model.predict(x[rest]) == y[rest]).mean())

    typical = np.mean([accuracy("typical", seed) for seed in range(5)])
    chance = np.mean([accuracy("random", seed) for seed in range(5)])
    assert typical > chance + 0.05


def test_typicality_is_the_mean_distance_to_the_nearest() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    distance = torch.cdist(torch.from_numpy(x), torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(
        active_learning.mean_distance(x),
        np.sort(distance, axis=1)[:, 1:21].mean(axis=1),
        rtol=1e-4,
        atol=1e-4,
    )
    assert active_learning.mean_distance(x[:1]).tolist() == [0.0]


@pytest.mark.parametrize("method", ["typical", "margin"])
def test_copies_are_no_reason_for_a_warning(method: str) -> None:
    x = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    labels = np.where(np.arange(40) % 5 == 0, np.arange(40) // 10 % 2, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = active_learning.suggest_rows(x, labels, 8, method=method)
    assert len(set(found.rows.tolist())) == 8 and (labels[found.rows] == -1).all()
