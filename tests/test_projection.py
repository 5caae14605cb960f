"""Layouts keep neighbours together, put the many among the few, and are the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from nearfar.analysis import projection
from nearfar.analysis.projection import cells, first_look, project
from nearfar.core.errors import NearfarError


def clouds(each: int) -> np.ndarray:
    draws = np.random.default_rng(0)
    middles = 3 * draws.standard_normal((3, 20))
    return np.concatenate([m + 0.3 * draws.standard_normal((each, 20)) for m in middles]).astype(np.float32)


def together(where: np.ndarray, each: int) -> float:
    """Share of each point's ten nearest on the sheet that are of its cloud."""
    away = np.linalg.norm(where[:, None] - where[None], axis=2)
    np.fill_diagonal(away, np.inf)
    return float((np.argsort(away, axis=1)[:, :10] // each == np.arange(3 * each)[:, None] // each).mean())


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.long)])
def test_clusters_stay_together_on_any_number_of_threads(method: str) -> None:
    if method == "umap":
        pytest.importorskip("umap")
    made = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            made.append(project(clouds(40), method))
    assert np.array_equal(*made)
    where = made[0]
    assert where.shape == (120, 2) and where.min() == 0 and where.max() == 1
    assert together(where, 40) > 0.98


def test_the_many_are_put_among_the_few(monkeypatch: pytest.MonkeyPatch) -> None:
    x = clouds(100)
    monkeypatch.setattr(projection, "TSNE_LIMIT", 90)
    where = project(x)
    assert where.shape == (300, 2) and together(where, 100) > 0.98
    assert len(np.unique(where.round(6), axis=0)) > 270  # no heap of images on one spot
    assert np.array_equal(where, project(x)) and not np.array_equal(where, project(x, seed=1))


@pytest.mark.parametrize("count", [3, 40])
def test_copies_of_one_image_lie_on_one_spot(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.repeat(clouds(1)[:1], count, axis=0)  # on which scikit-learn's t-SNE ends the program
    assert np.array_equal(project(x), np.zeros((count, 2)))
    monkeypatch.setattr(projection, "TSNE_LIMIT", 20)  # the others are put among some
    assert np.isfinite(project(x)).all()


@pytest.mark.parametrize("method", [project, first_look])
def test_features_of_one_number_have_a_map_too(method) -> None:
    x = np.repeat(np.array([[2.0], [-1.0]], np.float32), 12, axis=0)
    places = method(x)
    assert places.shape == (24, 2) and np.isfinite(places).all()
    assert np.linalg.norm(places[:12].mean(0) - places[12:].mean(0)) > 0.2


def test_each_cell_holds_the_image_nearest_to_its_middle() -> None:
    where = np.random.default_rng(0).random((200, 2))
    held = cells(where, 8)
    assert len(set(held.values())) == len(held) <= 64
    for row in range(8):
        for column in range(8):
            inside = np.flatnonzero((np.rint(where * 7) == [column, row]).all(1))
            away = np.square(where * 7 - [column, row]).sum(1)
            assert held.get((row, column)) == (inside[away[inside].argmin()] if len(inside) else None)


def test_mistakes_are_told() -> None:
    with pytest.raises(NearfarError, match="did you mean tsne"):
        project(clouds(2), "tsn")
    with pytest.raises(NearfarError, match="at least 3"):
        project(clouds(2)[:2])
