"""Chooses a balanced part of a collection: what is frequent less often, what is rare as often as it can be.

Rows are clustered, then the centres of the clusters, and so on. Clusters of rows are dense where rows are;
centres are spread more evenly, and centres of centres more evenly still. The number of rows to choose is then
shared out from the top: each branch gets the same, or all it has.

Source:
    Vo et al. 2024, "Automatic data curation for self-supervised learning: a clustering-based approach",
    sections 3.2 and 3.3 (hierarchical k-means with resampling, hierarchical sampling).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..core import rng
from ..core.errors import NearfarError
from ..features.knn import unit

LEAF, LEAVES = 8, 8192  # rows in a cluster of rows, on average; and such clusters, at most
RATIO, TOP = 6, 10  # clusters of one level for each of the next; and clusters on top, at most
SAMPLE, STEPS = 32, 8  # rows for each centre, and rounds, of a k-means
RESAMPLED, NEAREST = 3, 4  # times that a level is clustered again, by so many rows nearest each centre

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Curated:
    """A balanced part of a collection.

    Attributes:
        rows: the chosen ones, ascending.
        cluster: (n,) the cluster on top that each row of the collection is in.
    """

    rows: Rows
    cluster: Rows

    @property
    def largest(self) -> tuple[float, float]:
        """Give the share of the largest cluster: of the collection, and of the part."""
        every = np.bincount(self.cluster)
        return float(every.max() / every.sum()), float(
            np.bincount(self.cluster[self.rows]).max() / len(self.rows)
        )


@torch.no_grad()
def balanced(x: npt.NDArray[np.float32], count: int, seed: int = 0) -> Curated:
    """Choose rows so that clusters, clusters of clusters, and so on, are equally frequent among them.

    Args:
        x: (n, d) float32 features; they are scaled to length 1.
        count: how many to choose, from 1 to n.
        seed: random seed.

    Returns:
        The chosen rows.

    Raises:
        NearfarError: there are fewer rows.
    """
    if not 1 <= count <= len(x):
        raise NearfarError(f"--limit is {count}; give 1 to {len(x):,}, which is how many there are.")
    draws = np.random.Generator(np.random.Philox(key=rng.fold(seed, "curate")))
    at = unit(torch.from_numpy(x))
    levels: list[Rows] = []
    many = min(len(x) // LEAF, LEAVES)
    while many > 1:
        centres, inside = _level(at, many, draws)
        levels.append(inside)
        at, many = centres, len(centres) // RATIO if len(centres) > TOP else 0
    children = _tree(levels, len(x))
    chosen = _shared(children, count, draws)
    top = np.arange(len(x)) if levels else np.zeros(len(x), np.int64)
    for inside in levels:
        top = inside[top]
    return Curated(np.sort(chosen), top)


def share(count: int, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Share a number out over branches: each gets the same, or all that it has.

    Args:
        count: at most the sum of the sizes.
        sizes: (k,) how many each branch has.

    Returns:
        (k,) numbers that sum to `count`; those that are not exhausted differ by one at most.
    """
    order = np.argsort(sizes, kind="stable")
    given, left = np.zeros(len(sizes), np.int64), count
    for place, branch in enumerate(order):
        given[branch] = min(int(sizes[branch]), left // (len(order) - place))
        left -= int(given[branch])
    return given


def _level(x: torch.Tensor, many: int, draws: np.random.Generator) -> tuple[torch.Tensor, Rows]:
    """Cluster rows, then a more even sample of them, and put each row to its nearest centre.

    Clusters without a row are left out.
    """
    centres = _kmeans(x, many, draws)
    for _ in range(RESAMPLED):
        inside = _nearest(x, centres)
        near = (x * centres[inside]).sum(1).numpy()
        order = np.lexsort((-near, inside.numpy()))
        starts = np.searchsorted(inside.numpy()[order], np.arange(len(centres)))
        first = np.arange(len(order)) - starts[inside.numpy()[order]] < NEAREST
        even = x[torch.from_numpy(order[first])]
        if len(even) <= many:
            break
        centres = _kmeans(even, many, draws)
    used, numbers = torch.unique(_nearest(x, centres), return_inverse=True)
    return centres[used], numbers.numpy()


def _kmeans(x: torch.Tensor, many: int, draws: np.random.Generator) -> torch.Tensor:
    """Find centres of length 1 by k-means on a sample."""
    some = x[torch.from_numpy(draws.permutation(len(x))[: SAMPLE * many])]
    centres = some[:many]
    for _ in range(STEPS):
        at = _nearest(some, centres)
        sums = torch.zeros_like(centres).index_add_(0, at, some)
        centres = torch.where(at.bincount(minlength=len(centres))[:, None] > 0, unit(sums), centres)
    return centres


def _nearest(x: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Find the nearest centre of each row."""
    return torch.cat([(part @ centres.T).argmax(dim=1) for part in x.split(4096)])


def _tree(levels: list[Rows], count: int) -> list[list[Rows]]:
    """List the children of each node, level by level from the top; those of the lowest are rows."""
    found: list[list[Rows]] = []
    for inside in reversed(levels):
        order = np.argsort(inside, kind="stable")
        found.append(np.split(order, np.cumsum(np.bincount(inside))[:-1]))
    if not found:
        return [[np.arange(count)]]
    return [[np.arange(len(found[0]))], *found]


def _shared(children: list[list[Rows]], count: int, draws: np.random.Generator) -> Rows:
    """Share the number out from the top, and draw that many rows of each cluster of rows."""
    sizes = [np.ones(sum(map(len, children[-1])), np.int64)]
    for level in reversed(children):
        sizes.insert(0, np.array([int(sizes[0][inside].sum()) for inside in level]))
    wanted = np.array([count])
    for depth, level in enumerate(children[:-1]):
        below = np.zeros(len(children[depth + 1]), np.int64)
        for node, inside in enumerate(level):
            some = draws.permutation(inside)  # so that what is left over is nobody's in particular
            below[some] = share(int(wanted[node]), sizes[depth + 1][some])
        wanted = below
    parts = [draws.permutation(inside)[:number] for inside, number in zip(children[-1], wanted, strict=True)]
    return np.concatenate(parts)
