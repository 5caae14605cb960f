"""Sorts images into clusters, and says how many there seem to be, how stable they are, and what is typical.

k-means divides everything into a given number of round clusters; TEMI into clusters of any shape, in which
neighbours are together; HDBSCAN finds dense ones and leaves the rest out. None knows what a class is: a
clustering is a proposal to check.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core import progress, rng
from ..core.errors import NearfarError, nearest
from ..core.text import counted
from ..features.knn import unit
from .temi import temi

CLUSTERERS = ("kmeans", "hdbscan", "temi")
LEAST = 4  # vectors that are clustered
STARTS = 10  # k-means from so many random centres; the tightest result counts
TRIED_COUNTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # numbers of clusters that are tried
SILHOUETTE_SAMPLE, SILHOUETTE_SAMPLES = 1500, 5  # images in a sample to try them on, and samples
DIRECTIONS = 50  # principal directions that HDBSCAN works in: in more, nothing is dense
STABILITY_SAMPLE = 3000  # images in a resample, at most
STABILITY_STEPS = 100  # of TEMI on a resample
REPEATS = 10  # clusterings of resampled images, to see what stays together

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClusterCounts:
    """How well numbers of clusters fit: silhouettes, compared with those of one cloud without clusters.

    Attributes:
        counts: numbers of clusters tried.
        fit: (counts, samples) mean silhouette width, from -1 to 1.
        null: (counts, samples) the same of a cloud with the images' own spread in every direction, and no
            clusters.
        best: the number with the largest mean of fit less null.
        near: the numbers that do as well as the best, to within the samples' spread.
        clustered: whether the best is above its cloud by more than twice the spread of the samples.
    """

    counts: tuple[int, ...]
    fit: npt.NDArray[np.float64]
    null: npt.NDArray[np.float64]
    best: int
    near: tuple[int, ...]
    clustered: bool

    def to_json(self) -> dict[str, Any]:
        """Give everything in plain values."""
        return {**vars(self), "fit": self.fit.tolist(), "null": self.null.tolist()}

    def __str__(self) -> str:
        """Say what the number of clusters may be."""
        if not self.clustered:
            return (
                "No number of clusters fits better than it would fit one cloud without clusters: these are "
                "arbitrary parts of one whole."
            )
        same = [str(count) for count in self.near if count != self.best]
        others = f"; {', '.join(same)} fit as well, to within chance" if same else ""
        most = ", the most that are tried," if self.best == max(self.counts) else ""
        return f"{self.best} clusters{most} fit best{others}."


@dataclass(frozen=True)
class Clustering:
    """Clusters of n images.

    Attributes:
        cluster: (n,) numbers from 0, the largest cluster first; -1 for none.
        typical: (n,) cosine to the mean of the cluster; 0 for none.
        stability: for each cluster the mean overlap (Jaccard) with its like among resampled images, from 0
            to 1: above 0.75 it comes again each time, below 0.5 it is an accident; 0 if none has any of it.
        agreement: mean adjusted Rand index of those clusterings with this one; 0 is chance, 1 the same.
        counts: what was found about the number; None where it was given, or for HDBSCAN.
    """

    cluster: Rows
    typical: npt.NDArray[np.float64]
    stability: npt.NDArray[np.float64]
    agreement: float
    counts: ClusterCounts | None

    def __len__(self) -> int:
        """Count the clusters."""
        return len(self.stability)

    def exemplars(self, each: int) -> Rows:
        """Name the most typical images of every cluster, cluster by cluster.

        Args:
            each: how many of one.

        Returns:
            Rows, the most typical of a cluster first.
        """
        order = np.lexsort((-self.typical, self.cluster))
        order = order[self.cluster[order] >= 0]
        starts = np.searchsorted(self.cluster[order], np.arange(len(self)))
        return order[np.arange(len(order)) - starts[self.cluster[order]] < each]

    def to_json(self) -> dict[str, Any]:
        """Give everything in plain values."""
        return {
            "cluster": self.cluster.tolist(),
            "typical": self.typical.tolist(),
            "stability": self.stability.tolist(),
            "agreement": self.agreement,
            "counts": None if self.counts is None else self.counts.to_json(),
        }


def check_clustering(method: str, n_clusters: int | None, min_cluster_size: int) -> None:
    """Refuse settings that no collection can be clustered with, before there is anything to cluster.

    Args:
        method, n_clusters, min_cluster_size: as `cluster_images` takes them.
    """
    if method not in CLUSTERERS:
        raise NearfarError(f"--method {method!r} is not a clustering method; {nearest(method, CLUSTERERS)}")
    if n_clusters is not None and n_clusters < 1:
        raise NearfarError(f"--n-clusters is {n_clusters}; give 1 or more.")
    if min_cluster_size < 2:
        raise NearfarError(f"--min-cluster-size is {min_cluster_size}; give 2 or more.")


def cluster_images(
    x: Vectors,
    method: str = "kmeans",
    n_clusters: int | None = None,
    min_cluster_size: int = 10,
    seed: int = 0,
) -> Clustering:
    """Sort images into clusters.

    Args:
        x: (n, d) float32 features; they are scaled to length 1.
        method: "kmeans", "hdbscan" or "temi".
        n_clusters: for k-means and TEMI; None takes the number that fits best.
        min_cluster_size: images in a cluster at least, for HDBSCAN.
        seed: random seed of the start and sample.

    Returns:
        The clusters, the same on any number of threads.

    Raises:
        NearfarError: the method is unknown, or there are too few images.

    Source:
        Arthur and Vassilvitskii 2007, "k-means++"; Campello et al. 2013, "Density-based clustering based on
        hierarchical density estimates"; Hennig 2007, "Cluster-wise assessment of cluster stability".
    """
    from threadpoolctl import threadpool_limits

    check_clustering(method, n_clusters, min_cluster_size)
    few = f"{counted(len(x), 'vector is')} too few"
    if len(x) < LEAST:
        raise NearfarError(f"{few} to cluster; give at least {LEAST}.")
    if n_clusters is not None and len(x) <= n_clusters:
        raise NearfarError(f"{few} for {n_clusters} clusters; give more, or ask for fewer.")
    rows = unit(torch.from_numpy(x)).numpy()
    with threadpool_limits(1):
        if method == "hdbscan":
            rows = reduced(rows)
            counts, divide = None, partial(_dense, min_cluster_size=min_cluster_size)
            found = divide(rows)
        else:
            counts = suggest_n_clusters(rows, seed) if n_clusters is None else None
            progress.stage("clustering")
            many = n_clusters or (counts.best if counts else 2)
            if method == "temi":
                divide = partial(temi, n_clusters=many, seed=seed, steps=STABILITY_STEPS)
                found = temi(rows, many, seed)
            else:
                divide = partial(kmeans, n_clusters=many, seed=seed, starts=2)
                found = kmeans(rows, many, seed)
        found = _by_size(found)
        middles = np.stack([rows[found == number].mean(0) for number in range(found.max() + 1)] or [rows[0]])
        middles /= np.maximum(np.linalg.norm(middles, axis=1, keepdims=True), 1e-12)
        lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
        typical = np.where(found >= 0, (rows * middles[found]).sum(1) / lengths, 0.0)
        stability, agreement = _stability(rows, found, divide, seed)
    return Clustering(found, typical.astype(np.float64), stability, agreement, counts)


def kmeans(rows: Vectors, n_clusters: int, seed: int, starts: int = STARTS) -> Rows:
    """Cluster by k-means.

    Args:
        rows: (n, d) floats.
        n_clusters: where there are fewer rows, each row is a cluster.
        seed: random seed of the starts.
        starts: how many there are; the tightest result counts.

    Returns:
        (n,) int64 in [0, n_clusters).
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    model = KMeans(min(n_clusters, len(rows)), n_init=starts, random_state=rng.fold(seed, "k-means") % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than clusters
        return model.fit_predict(rows).astype(np.int64)


def _dense(rows: Vectors, min_cluster_size: int) -> Rows:
    """Cluster by HDBSCAN; -1 for what lies in no dense place."""
    from sklearn.cluster import HDBSCAN

    if len(rows) < 4:
        return np.full(len(rows), -1, np.int64)
    min_cluster_size = max(2, min(min_cluster_size, len(rows) // 2))
    return HDBSCAN(min_cluster_size=min_cluster_size, copy=True).fit_predict(rows).astype(np.int64)


def reduced(rows: Vectors, directions: int = DIRECTIONS) -> Vectors:
    """Keep the first principal directions, centred.

    Args:
        rows: (n, d) floats.
        directions: how many, at most.

    Returns:
        (n, min(directions, n, d)) of their own dtype.
    """
    from sklearn.decomposition import PCA

    if min(rows.shape) <= directions:
        return rows
    return PCA(directions, svd_solver="covariance_eigh").fit_transform(rows)


def _by_size(found: Rows) -> Rows:
    """Number clusters again, the largest first."""
    names, sizes = np.unique(found[found >= 0], return_counts=True)
    order = names[np.argsort(-sizes, kind="stable")]
    renamed = np.full(max(found.max(), -1) + 2, -1, np.int64)
    renamed[order] = np.arange(len(order))
    return renamed[found]


def suggest_n_clusters(rows: Vectors, seed: int = 0) -> ClusterCounts:
    """Try numbers of clusters on samples of the images, compared with a cloud of the same spread.

    Args:
        rows: (n, d) float32, of length 1.
        seed: random seed of the samples, the starts and the clouds.

    Returns:
        How well each fits.

    Source:
        Rousseeuw 1987, "Silhouettes"; the comparison with a reference without clusters is that of Tibshirani
        et al. 2001, "Estimating the number of clusters in a data set via the gap statistic".
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import silhouette_score

    size = min(SILHOUETTE_SAMPLE, max(4, 2 * len(rows) // 3))
    counts = tuple(count for count in TRIED_COUNTS if count <= size // 3) or (2,)
    fit, null = np.empty((2, len(counts), SILHOUETTE_SAMPLES))
    flat = reduced(rows, 2 * DIRECTIONS)
    middle, spread = flat.mean(0), _root(np.cov(flat.T.astype(np.float64)))
    for sample in range(SILHOUETTE_SAMPLES):
        progress.stage("trying numbers of clusters", sample, SILHOUETTE_SAMPLES)
        key = rng.fold(seed, "counts", sample)
        draws = np.random.Generator(np.random.Philox(key=key))
        some = flat[draws.choice(len(rows), size, replace=False)]
        cloud = (middle + draws.standard_normal((size, len(spread))) @ spread).astype(np.float32)
        for at, count in enumerate(counts):
            for table, points in ((fit, some), (null, cloud)):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    named = KMeans(count, n_init=2, random_state=key % 2**32).fit_predict(points)
                table[at, sample] = silhouette_score(points, named) if len(np.unique(named)) > 1 else -1
    gain = fit - null
    best = int(gain.mean(1).argmax())
    spread_of = gain.std(1, ddof=1)
    level = gain[best].mean() - spread_of[best]
    near = tuple(count for count, mean in zip(counts, gain.mean(1), strict=True) if mean >= level)
    clustered = bool(gain[best].mean() > 2 * spread_of[best] + 0.01)
    return ClusterCounts(counts, fit, null, counts[best], near, clustered)


def _root(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _stability(
    rows: Vectors, found: Rows, divide: Callable[[Vectors], Rows], seed: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Cluster resampled images again, and see how much of each cluster comes again."""
    from sklearn.metrics import adjusted_rand_score

    many = int(found.max()) + 1
    overlap, rand, drawn = np.zeros((REPEATS, many)), np.zeros(REPEATS), np.zeros((REPEATS, many), bool)
    for repeat in range(REPEATS):
        progress.stage("clustering samples again", repeat, REPEATS)
        key = rng.fold(seed, "resample", repeat)
        draws = np.random.Generator(np.random.Philox(key=key))
        size = min(len(rows), STABILITY_SAMPLE)
        # Each image once: copies of one would make dense places of their own.
        some = np.unique(draws.integers(len(rows), size=size))
        again, before = divide(rows[some]), found[some]
        rand[repeat] = adjusted_rand_score(before, again)
        table = np.zeros((many + 1, again.max() + 2))
        np.add.at(table, (before, again), 1)  # -1 falls into the last row and column
        union = table.sum(1)[:-1, None] + table.sum(0)[None, :-1] - table[:-1, :-1]
        drawn[repeat] = table[:-1].sum(1) > 0
        if union.size:
            overlap[repeat] = (table[:-1, :-1] / np.maximum(union, 1)).max(1)
    # A sample without an image of a cluster, which is small then, says nothing of it.
    return overlap.sum(0) / np.maximum(drawn.sum(0), 1), float(rand.mean())
