"""k-reciprocal re-ranking: two images are alike if they are among each other's neighbours' neighbours.

Source:
    Zhong, Zheng, Cao and Li 2017, "Re-ranking person re-identification with k-reciprocal encoding", CVPR.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
K1, K2, SHARE = 20, 6, 0.3  # neighbours, neighbours averaged over, and the share of the plain distance
TILE = 1 << 24  # distances held at a time


class Reranking:
    """The neighbours of some images among each other, from which similarities are made anew.

    Memory grows with the number of images, not with its square. Queries and gallery are both among the
    images, as in the paper.
    """

    def __init__(self, x: Vectors, k1: int = K1, k2: int = K2, share: float = SHARE) -> None:
        """Find the neighbours.

        Args:
            x: (n, d) rows of length 1.
            k1: neighbours that a row looks at.
            k2: of these, those whose neighbourhoods are averaged.
            share: of the plain distance in the new one.
        """
        n = len(x)
        k1, self.share, self.x = min(k1, n - 1), share, x
        self.farthest = np.empty(n, np.float32)
        near = np.empty((n, k1 + 1), np.int64)
        for rows in np.array_split(np.arange(n), max(1, -(-n * n // TILE))):
            far = self._plain(rows, slice(None))
            far[np.arange(len(rows)), rows] = -1  # a row is the first of its own neighbours
            self.farthest[rows] = far.max(1)
            some = np.argpartition(far, k1, axis=1)[:, : k1 + 1]
            order = np.argsort(np.take_along_axis(far, some, 1), axis=1, kind="stable")
            near[rows] = np.take_along_axis(some, order, 1)
        self.farthest = np.maximum(self.farthest, 1e-12)
        weights = self._encoded(near, k1)
        if k2 > 1:
            k2 = min(k2, k1 + 1)
            columns = near[:, :k2].ravel()
            mean = sparse.csr_matrix(
                (np.full(n * k2, 1 / k2, np.float32), columns, np.arange(0, n * k2 + 1, k2)), (n, n)
            )
            weights = mean @ weights
        self.weights = sparse.csr_matrix(weights)

    def _plain(self, rows: Rows, columns: Rows | slice) -> Vectors:
        """Give squared distances."""
        return np.maximum(2 - 2 * (self.x[rows] @ self.x[columns].T), 0)

    def _encoded(self, near: Rows, k1: int) -> sparse.csr_matrix:
        """Weigh each row's k-reciprocal neighbours, and those of these: equations 3 to 5 and 7."""
        half = min(round(k1 / 2), k1)

        def mutual(row: int, k: int) -> Rows:
            own = near[row, : k + 1]
            return own[(near[own, : k + 1] == row).any(1)]

        halves = [mutual(row, half) for row in range(len(near))]
        columns, values, starts = [], [], [0]
        for row in range(len(near)):
            own = mutual(row, k1)
            more = [
                halves[other]
                for other in own.tolist()
                if len(np.intersect1d(halves[other], own, assume_unique=True)) > 2 / 3 * len(halves[other])
            ]
            kept = np.unique(np.concatenate([own, *more]))
            weight = np.exp(-self._plain(np.array([row]), kept)[0] / self.farthest[row])
            columns.append(kept)
            values.append(weight / weight.sum())
            starts.append(starts[-1] + len(kept))
        parts = np.concatenate(values).astype(np.float32), np.concatenate(columns), np.array(starts)
        return sparse.csr_matrix(parts, (len(near), len(near)))

    def __call__(self, queries: Rows, gallery: Rows) -> Vectors:
        """Give the similarities of rows (q,) and (g,): 1 less the distance of equations 10 and 12."""
        found = np.empty((len(queries), len(gallery)), np.float32)
        columns = sparse.csc_matrix(self.weights[gallery])
        for at, row in enumerate(queries.tolist()):
            low, high = self.weights.indptr[row : row + 2]
            both = np.zeros(len(gallery), np.float32)
            for place, own in zip(self.weights.indices[low:high], self.weights.data[low:high], strict=True):
                start, end = columns.indptr[place : place + 2]
                both[columns.indices[start:end]] += np.minimum(own, columns.data[start:end])
            found[at] = 1 - both / (2 - both)  # the Jaccard distance
        plain = self._plain(queries, gallery) / self.farthest[queries, None]
        return np.asarray(1 - ((1 - self.share) * found + self.share * plain), np.float32)
