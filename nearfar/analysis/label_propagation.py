"""Propagates labels from image to image over a nearest-neighbour graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..core.errors import NearfarError
from ..features.extract import Vectors
from ..features.knn import top_k

Rows = npt.NDArray[np.int64]
GRAPH_NEIGHBOURS = 20
POWER = 3  # of the cosine: Iscen et al. 2019, "Label propagation for deep semi-supervised learning"
ALPHA = 0.9  # how far labels spread: at 0.99, as in the paper, one class may flood the others
TOLERANCE = 1e-6


def graph(features: Vectors, k: int = GRAPH_NEIGHBOURS) -> Any:
    """Join each row with its k nearest by cosine, and scale the links for spreading.

    A link weighs the cosine, if above 0, to the power of POWER, and joins two rows if either is among the
    other's nearest. With W the weights and D their sums a row, the result is S = D^-1/2 W D^-1/2.

    Args:
        features: (n, d) float32, centred.
        k: neighbours a row; fewer where there are fewer rows.

    Returns:
        (n, n) sparse, symmetric, float32.
    """
    from scipy.sparse import csr_array, diags_array

    x = torch.from_numpy(features)
    k = min(k, len(x) - 1)
    cosines, who = top_k(x, x, k, exclude_self=True)
    weight = cosines.clamp(0, 1).numpy() ** POWER
    rows = np.repeat(np.arange(len(x)), k)
    links = csr_array((weight.ravel(), (rows, who.numpy().ravel())), shape=(len(x), len(x)))
    links = links.maximum(links.T)
    total = links.sum(axis=1)
    scale = diags_array(np.where(total > 0, 1 / np.sqrt(np.maximum(total, 1e-12)), 0).astype(np.float32))
    return csr_array(scale @ links @ scale)


def propagate(features: Vectors, labels: Rows, classes: int, *, k: int = GRAPH_NEIGHBOURS) -> Vectors:
    """Let the known labels spread to all rows: F = (1 - alpha) (I - alpha S)^-1 Y.

    Args:
        features: (n, d) float32, centred.
        labels: (n,) int64 in [0, classes), or -1 where unknown.
        classes: how many there are.
        k: as for `graph`.

    Returns:
        (n, classes) float32 shares, rows summing to 1; a row that no label reaches is all 0.

    Raises:
        NearfarError: no label is known.

    Source:
        Zhou et al. 2004, "Learning with local and global consistency".
    """
    from scipy.sparse.linalg import LinearOperator, cg

    known = np.flatnonzero(labels >= 0)
    if not len(known):
        raise NearfarError("there are no labels to propagate; give at least one example of each class.")
    links = graph(features, k)
    system = LinearOperator(links.shape, matvec=lambda f: f - ALPHA * (links @ f), dtype=np.float32)
    shares = np.zeros((len(labels), classes), np.float32)
    for number in range(classes):
        y = (labels == number).astype(np.float32)
        # The system is symmetric and positive definite, since S has no eigenvalue beyond 1.
        shares[:, number] = cg(system, y, rtol=TOLERANCE, maxiter=1000)[0]
    shares = np.maximum(shares, 0)
    shares[shares < TOLERANCE * shares.max()] = 0
    total = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=shares, where=total > 0)
