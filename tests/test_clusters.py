"""Clusters: planted ones are found and counted, a cloud is called that, accidents are not stable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, silhouette_score
from threadpoolctl import threadpool_limits

from nearfar.analysis import clusters, temi
from nearfar.analysis.clusters import Clustering, cluster_images, kmeans, suggest_n_clusters
from nearfar.core.errors import NearfarError


def planted(sizes: list[int], spread: float = 0.12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clouds about far directions, with the number of each point's cloud."""
    draws = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    middles = np.linalg.qr(draws.standard_normal((20, 20)))[0][: len(sizes)]
    return (middles[truth] + spread * draws.standard_normal((len(truth), 20))).astype(np.float32), truth


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_planted_clusters_are_found_counted_and_stable(method: str) -> None:
    x, truth = planted([150, 90, 120, 60, 80])
    found = cluster_images(x, method)
    assert len(found) == 5
    assert adjusted_rand_score(truth[found.cluster >= 0], found.cluster[found.cluster >= 0]) > 0.98
    assert (found.cluster >= 0).mean() > (0.8 if method == "hdbscan" else 0.999)
    assert (np.diff(np.bincount(found.cluster[found.cluster >= 0])) <= 0).all()  # the largest first
    assert found.stability.min() > 0.75 and found.agreement > 0.85
    if found.counts is not None:
        assert found.counts.clustered and found.counts.best == 5 and 5 in found.counts.near
        assert "5 clusters fit best" in str(found.counts)
        last = replace(found.counts, counts=(2, 3, 4, 5))
        assert "5 clusters, the most that are tried, fit best" in str(last)


def test_a_cloud_without_clusters_is_called_that() -> None:
    for seed in range(3):
        draws = np.random.default_rng(seed)
        shape = np.linspace(1, 0.2, 12)
        x = (draws.standard_normal((500, 12)) * shape + 1.5).astype(np.float32)
        found = suggest_n_clusters(unit(x), seed)
        assert not found.clustered and "one cloud" in str(found)


def test_a_fit_is_the_silhouette_of_scikit_learn() -> None:
    x, truth = planted([40, 40, 40])
    found = suggest_n_clusters(unit(x))
    at = found.counts.index(3)
    # Samples of two thirds, clustered rightly, differ little from the truth's own silhouette.
    assert found.fit[at].mean() == pytest.approx(silhouette_score(unit(x), truth), abs=0.03)
    assert found.fit.shape == (len(found.counts), 5) and found.counts[-1] <= 27


def test_too_many_clusters_are_not_stable() -> None:
    x, _ = planted([120, 120, 120])
    right, wrong = cluster_images(x, n_clusters=3), cluster_images(x, n_clusters=9)
    assert right.stability.min() > 0.95 and right.agreement > 0.95
    assert wrong.stability.mean() < 0.6 and wrong.agreement < 0.7
    assert right.counts is None


def test_a_cluster_of_one_image_is_stable_wherever_it_is_drawn() -> None:
    x, _ = planted([80, 80, 1], spread=0.001)
    found = cluster_images(x, n_clusters=3)
    assert np.bincount(found.cluster).tolist() == [80, 80, 1]
    assert found.stability[2] == pytest.approx(1.0)  # samples that lack it say nothing of it


def test_exemplars_lie_nearest_to_the_middle() -> None:
    x, _ = planted([50, 40, 30])
    found = cluster_images(x, n_clusters=3)
    rows = found.exemplars(4)
    assert found.cluster[rows].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for number in range(3):
        members = np.flatnonzero(found.cluster == number)
        cosine = unit(x)[members] @ unit(unit(x)[members].mean(0, keepdims=True))[0]
        assert set(rows[4 * number : 4 * number + 4]) == set(members[np.argsort(-cosine)[:4]])


def test_what_lies_in_no_cluster_is_left_out_and_is_no_exemplar() -> None:
    x, _ = planted([60, 60])
    noise = np.random.default_rng(1).standard_normal((12, 20)).astype(np.float32)
    found = cluster_images(np.concatenate([x, noise]), "hdbscan")
    assert len(found) == 2 and (found.cluster[120:] == -1).mean() > 0.8
    assert (found.typical[found.cluster < 0] == 0).all()
    assert set(found.exemplars(1000)) == set(np.flatnonzero(found.cluster >= 0))
    nothing = cluster_images(noise, "hdbscan", min_cluster_size=6)
    assert len(nothing) == 0 and len(nothing.exemplars(3)) == 0


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_threads_change_nothing(method: str) -> None:
    x, _ = planted([80, 50, 40], spread=0.3)
    made: list[Clustering] = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            made.append(cluster_images(x, method, n_clusters=None if method == "hdbscan" else 6, seed=3))
    assert made[0].to_json() == made[1].to_json()


def test_mistakes_are_told() -> None:
    x, _ = planted([5, 5])
    with pytest.raises(NearfarError, match="did you mean kmeans"):
        cluster_images(x, "kmean")
    with pytest.raises(NearfarError, match="10 vectors are too few for 10 clusters"):
        cluster_images(x, n_clusters=10)
    with pytest.raises(NearfarError, match=r"3 vectors are too few to cluster; give at least 4\."):
        cluster_images(x[:3])
    with pytest.raises(NearfarError, match="--n-clusters is -3"):
        cluster_images(x, n_clusters=-3)
    assert set(kmeans(x, 2, 0)) == {0, 1}


def test_temis_loss_is_the_loops_of_the_paper() -> None:
    draw = torch.Generator().manual_seed(0)
    p, told = (torch.randn(3, 8, 5, generator=draw, dtype=torch.float64).softmax(2) for _ in range(2))
    mean = told.mean(1, keepdim=True)
    wanted = []
    for head in range(3):
        total = 0.0
        for i in range(8):
            j = (i + 4) % 8
            alike = sum(float(told[h, i] @ told[h, j]) for h in range(3)) / 3
            shared = sum((p[head, i, k] * told[head, j, k]) ** 0.6 / mean[head, 0, k] for k in range(5))
            total -= alike * float(shared.log()) / 8
        wanted.append(total)
    found = temi.pair_losses(p, told, mean)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=0)


def test_temis_mean_answer_follows_slowly_from_all_clusters_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], temi.pair_losses

    def spied(p: torch.Tensor, told: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        seen.append((told.clone(), mean.clone()))
        return real(p, told, mean)

    monkeypatch.setattr(temi, "pair_losses", spied)
    temi.temi(planted([30, 30, 30])[0], 3, seed=0, steps=12)
    assert len(seen) == 12
    mean = torch.full((temi.HEADS, 1, 3), 1 / 3)
    for told, found in seen:
        mean = 0.9 * mean + 0.1 * told.mean(1, keepdim=True)
        torch.testing.assert_close(found, mean)


def test_answers_that_are_quite_sure_still_have_a_slope() -> None:
    logits = torch.tensor([[[900.0, 0.0, -900.0], [900.0, 0.0, -900.0]]], requires_grad=True)
    told = logits.detach().softmax(2)
    temi.pair_losses(logits.softmax(2), told, told.mean(1, keepdim=True).clamp_min(0.1)).sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_temi_finds_planted_clusters_and_says_how_stable_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "REPEATS", 2)
    x, truth = planted([120, 70, 100])
    found = cluster_images(x, "temi", 3)
    assert adjusted_rand_score(truth, found.cluster) > 0.98 and found.counts is None
    assert np.bincount(found.cluster).tolist() == [120, 100, 70] and found.stability.min() > 0.75


def test_temi_gives_the_same_clusters_again_and_fills_them() -> None:
    x, truth = planted([40, 40, 40])
    one, two = (temi.temi(unit(x), 3, 0, steps=100) for _ in range(2))
    assert np.array_equal(one, two) and adjusted_rand_score(truth, one) > 0.95


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("distinct", [1, 2, 99])
@pytest.mark.parametrize("count", [4, 5, 8, 24])
def test_few_images_and_nearly_as_many_clusters(count: int, distinct: int) -> None:
    x = (
        np.random.default_rng(count)
        .normal(size=(count, 8))
        .astype(np.float32)[np.arange(count) % distinct % count]
    )
    for method, n_clusters in (("kmeans", None), ("kmeans", count - 1), ("hdbscan", None)):
        found = cluster_images(x, method, n_clusters)
        assert found.cluster.shape == (count,) and len(found) <= min(distinct, n_clusters or count)
        assert set(found.exemplars(1).tolist()) <= set(range(count))


def test_temi_clusters_as_few_images_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temi, "STEPS", (5, 5))
    monkeypatch.setattr(clusters, "STABILITY_STEPS", 5)
    found = cluster_images(np.eye(4, dtype=np.float32), "temi")  # of which a resample may have one alone
    assert len(found.cluster) == 4 and (temi.temi(np.eye(4, dtype=np.float32)[:1], 2, 0) == 0).all()
