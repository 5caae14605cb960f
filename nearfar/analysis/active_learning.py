"""Suggests what to label next: typical images while labels are few, later uncertain ones that differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..core.errors import NearfarError, nearest
from ..features import logistic
from ..features.extract import Vectors
from ..features.knn import unit

Rows = npt.NDArray[np.int64]
UNKNOWN = -1
ENOUGH = 10  # labels a class from which doubt says more than typicality (benchmarks/suggest.py)
MOST_CLUSTERS = 500  # clusters for typical images at most (TypiClust)
SMALL = 5  # rows below which a cluster has no typical image (TypiClust)
TYPICALITY_NEIGHBOURS = 20  # neighbours that tell how typical a row is (TypiClust)
DOUBTED = 10  # uncertain rows considered for each suggested


@dataclass(frozen=True)
class Suggestion:
    """Rows to label, the most useful first.

    Attributes:
        rows: (k,) int64.
        method: how they were chosen: a name of STRATEGIES.
    """

    rows: Rows
    method: str


def check_strategy(method: str) -> None:
    """Refuse an unknown way to choose, before there is anything to choose from.

    Args:
        method: as `suggest_rows` takes it.
    """
    if method not in ("auto", *STRATEGIES):
        raise NearfarError(f"--method {method!r} is not known; {nearest(method, ('auto', *STRATEGIES))}")


def suggest_rows(
    features: Vectors, labels: Rows, count: int, *, method: str = "auto", seed: int = 0
) -> Suggestion:
    """Choose which images to label next.

    Args:
        features: (n, d) float32.
        labels: (n,) int64 class numbers, or -1 where there is none yet.
        count: how many; fewer come where fewer are unlabelled.
        method: a name of STRATEGIES, or "auto": "typical" while there are fewer than ENOUGH labels a class,
            or one class only, and "margin" afterwards.
        seed: random seed.

    Returns:
        Unlabelled rows, in the order in which to label them.

    Raises:
        NearfarError: the method is unknown, all is labelled, or "margin" has fewer than two classes to go by.
    """
    check_strategy(method)
    free = int((labels == UNKNOWN).sum())
    if not free:
        raise NearfarError("every row has a label already; there is nothing to suggest.")
    known = np.unique(labels[labels != UNKNOWN])
    if method == "auto":
        few = len(known) < 2 or len(labels) - free < ENOUGH * len(known)
        method = "typical" if few else "margin"
    return Suggestion(STRATEGIES[method](features, labels, min(count, free), seed), method)


def typical(features: Vectors, labels: Rows, count: int, seed: int = 0) -> Rows:
    """Choose the most typical row of each cluster that has no label yet, the largest clusters first.

    Rows are clustered into as many clusters as there are labels and suggestions together, MOST_CLUSTERS at
    most. Each suggestion is from the cluster with the fewest labels, of those from the largest: its row with
    the least mean distance to its NEAR nearest within the cluster.

    Args:
        features: (n, d) float32.
        labels: (n,) int64, or -1.
        count: how many, 1 to the number of unlabelled rows.
        seed: names the clusters' starts.

    Returns:
        (count,) int64.

    Source:
        Hacohen, Dekel and Weinshall 2022, "Active learning on a budget: opposite strategies suit high and low
        budgets" (TypiClust).
    """
    x = unit(torch.from_numpy(features)).numpy()
    taken = labels != UNKNOWN
    clusters = clustered(x, min(int(taken.sum()) + count, MOST_CLUSTERS, len(x)), seed)
    members = [np.flatnonzero(clusters == number) for number in range(clusters.max() + 1)]
    ranked = [own[np.argsort(mean_distance(x[own]), kind="stable")] for own in members]
    labelled = np.array([int(taken[own].sum()) for own in members])
    sizes = np.array([len(own) for own in members])
    chosen: list[int] = []
    while len(chosen) < count:
        left = np.array([not taken[own].all() for own in members])
        fit = left & (sizes >= SMALL) if (left & (sizes >= SMALL)).any() else left
        at = min(np.flatnonzero(fit), key=lambda number: (labelled[number], -sizes[number]))
        row = next(int(row) for row in ranked[at] if not taken[row])
        chosen.append(row)
        taken[row] = True
        labelled[at] += 1
    return np.array(chosen, np.int64)


def mean_distance(x: Vectors) -> Vectors:
    """Measure the mean distance of each row to its NEAR nearest others; the least is the most typical.

    Args:
        x: (n, d) floats.

    Returns:
        (n,), 0 for a lone row.
    """
    if len(x) == 1:
        return np.zeros(1, np.float32)
    rows = torch.from_numpy(x)
    near = min(TYPICALITY_NEIGHBOURS, len(x) - 1)
    parts = [torch.cdist(part, rows).topk(near + 1, dim=1, largest=False)[0] for part in rows.split(1024)]
    return (torch.cat(parts).sum(dim=1) / near).numpy()


def k_center(features: Vectors, labels: Rows, count: int, seed: int = 0) -> Rows:
    """Choose rows so that none is left far from a labelled or chosen one: each time the farthest.

    Args:
        features: (n, d) float32.
        labels: (n,) int64, or -1.
        count: how many, 1 to the number of unlabelled rows.
        seed: not used: without a label, the row nearest to the mean is the first.

    Returns:
        (count,) int64.

    Source:
        Sener and Savarese 2018, "Active learning for convolutional neural networks: a core-set approach"; the
        greedy algorithm, by Gonzalez 1985.
    """
    x = unit(torch.from_numpy(features)).numpy()
    taken = np.flatnonzero(labels != UNKNOWN)
    chosen: list[int] = []
    if not len(taken):
        chosen.append(int((x @ x.mean(axis=0)).argmax()))
        taken = np.array(chosen)
    closest = np.full(len(x), -np.inf, np.float32)
    for low in range(0, len(taken), 1024):
        closest = np.maximum(closest, (x @ x[taken[low : low + 1024]].T).max(axis=1))
    closest[taken] = np.inf
    while len(chosen) < count:
        row = int(closest.argmin())
        chosen.append(row)
        closest = np.maximum(closest, x @ x[row])
        closest[row] = np.inf
    return np.array(chosen, np.int64)


def margin(features: Vectors, labels: Rows, count: int, seed: int = 0) -> Rows:
    """Choose rows that a classifier on the labels so far is uncertain about, each unlike the others.

    Doubt is the lead of the likeliest class over the second, in shares of logistic regression. The
    DOUBTED * count rows with the smallest lead are put into `count` clusters, and the row nearest to each
    centre is taken, in the order of their leads.

    Args:
        features: (n, d) float32.
        labels: (n,) int64, or -1; two classes at least.
        count: how many, 1 to the number of unlabelled rows.
        seed: names the clusters' starts.

    Returns:
        (count,) int64.

    Raises:
        NearfarError: the labels hold fewer than two classes.

    Source:
        Scheffer, Decomain and Wrobel 2001, "Active hidden Markov models for information extraction", for
        margins; Zhdanov 2019, "Diverse mini-batch active learning".
    """
    names, y = np.unique(labels[labels != UNKNOWN], return_inverse=True)
    if len(names) < 2:
        raise NearfarError(
            "margins need labels of at least two classes; label some first, or use --method typical."
        )
    x = torch.from_numpy(features)
    free = np.flatnonzero(labels == UNKNOWN)
    mean, inverse = logistic.standards(x)
    seen = (x[torch.from_numpy(labels != UNKNOWN)] - mean) * inverse
    fitted = logistic.fit(
        seen, torch.from_numpy(y), len(names), 1.0 / len(y) + 1e-3, as_is=True, tolerance=1e-4
    )
    shares = fitted.logits((x[free] - mean) * inverse).softmax(dim=1).topk(2, dim=1)[0]
    lead = (shares[:, 0] - shares[:, 1]).numpy()
    doubted = np.argsort(lead, kind="stable")[: DOUBTED * count]
    if len(doubted) <= count:
        return free[doubted]
    part = unit(x[free[doubted]]).numpy()
    clusters = clustered(part, count, seed)
    groups = [np.flatnonzero(clusters == number) for number in np.unique(clusters)]
    picked = [own[int((part[own] @ part[own].mean(axis=0)).argmax())] for own in groups]
    rest = np.setdiff1d(np.arange(len(doubted)), picked)  # where clusters came out empty
    chosen = np.sort(np.concatenate([picked, rest[: count - len(picked)]]).astype(np.int64))
    return free[doubted[chosen]]


def at_random(features: Vectors, labels: Rows, count: int, seed: int = 0) -> Rows:
    """Choose rows at random: the baseline of the other methods.

    Args, returns: as `typical`.
    """
    free = np.flatnonzero(labels == UNKNOWN)
    return free[rng.permutation(rng.fold(seed, "suggest", len(labels) - len(free)), len(free))[:count]]


def clustered(x: Vectors, count: int, seed: int) -> Rows:
    """Cluster rows by k-means; from mini-batches where clusters are many.

    Args:
        x: (n, d) float32.
        count: clusters, at most n.
        seed: random seed of the start.

    Returns:
        (n,) int64; some numbers may have no row.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    make = KMeans if count <= 50 else MiniBatchKMeans
    # On one thread, since the order in which threads add up would show in the last bits of the centres.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than clusters
        found = make(count, n_init=1, random_state=rng.fold(seed, "suggest") % 2**32).fit_predict(x)
    return np.asarray(found, np.int64)


STRATEGIES: dict[str, Callable[[Vectors, Rows, int, int], Rows]] = {
    "typical": typical,
    "margin": margin,
    "k-center": k_center,
    "random": at_random,
}
