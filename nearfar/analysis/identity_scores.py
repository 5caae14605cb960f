"""Measures a search for individuals: at which ranks the gallery's images of a query's own identity stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.intervals import LEVEL, RESAMPLES
from .chance import chance_precision

Rows = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]
RANKS = (1, 5, 10)
BOTH, QUERY, GALLERY = 0, 1, 2
TILE = 1 << 24  # similarities held at a time


@dataclass(frozen=True)
class Identities:
    """Who is on each of n images.

    Attributes:
        identities: (n,) numbers.
        cameras: (n,) numbers of the cameras; -1 where it is not known.
        roles: (n,) BOTH, QUERY or GALLERY: an image may be searched for, be found, or both.
    """

    identities: Rows
    cameras: Rows
    roles: Rows

    @property
    def queries(self) -> Rows:
        """Rows that are searched for."""
        return np.flatnonzero(self.roles != GALLERY)

    @property
    def gallery(self) -> Rows:
        """Rows that are found."""
        return np.flatnonzero(self.roles != QUERY)

    def left_out(self, queries: Rows) -> npt.NDArray[np.bool_]:
        """Say which gallery images do not count for a query: itself, and its identity from its own camera.

        Args:
            queries: (q,) rows.

        Returns:
            (q, gallery) bool.
        """
        gallery = self.gallery
        same = self.identities[queries, None] == self.identities[gallery]
        camera = self.cameras[queries, None]
        return (queries[:, None] == gallery) | (same & (camera == self.cameras[gallery]) & (camera >= 0))

    def answerable(self) -> Rows:
        """Give the queries whose identity is in the gallery, with an image that counts."""
        found = [np.empty(0, np.int64)]
        for part in _parts(self.queries, len(self.gallery)):
            same = self.identities[part, None] == self.identities[self.gallery]
            found.append(part[(same & ~self.left_out(part)).any(1)])
        return np.concatenate(found)


@dataclass(frozen=True)
class IdentityScores:
    """How well individuals are found; 0 to 1.

    Attributes:
        map: mean over queries of the average precision.
        low, high: the ends of its 95 % bootstrap interval over identities.
        ranks: k to the share of queries with their identity among the first k (cumulative matching).
        queries: (m,) rows that were measured: those whose identity is in the gallery.
        precisions: (m,) the average precision of each.
        chance: what `map` is on average if the gallery is ranked at random.
    """

    map: float
    low: float
    high: float
    ranks: dict[int, float]
    queries: Rows
    precisions: npt.NDArray[np.float64]
    chance: float


def scores(who: Identities, similar: Callable[[Rows, Rows], Similarities], seed: int = 0) -> IdentityScores:
    """Rank the gallery for each query, and measure where its identity stands.

    A query whose identity has no other image in the gallery is left out, as the authors of Market-1501 do. Of
    images that are equally alike, the wrong ones count as first.

    Args:
        who: identities, cameras and roles of n images.
        similar: gives of rows (q,) and (g,) the (q, g) similarities; higher is more alike.
        seed: random seed of the resamples.

    Source:
        Zheng et al. 2015, "Scalable person re-identification: a benchmark", section 3.2.
    """
    gallery, rows = who.gallery, who.answerable()
    precisions, firsts, chances = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0)]
    place = np.arange(1, len(gallery) + 1)
    for part in _parts(rows, len(gallery)):
        out = who.left_out(part)
        wanted = (who.identities[part, None] == who.identities[gallery]) & ~out
        order = np.lexsort((wanted, np.where(out, np.inf, -similar(part, gallery))), axis=1)
        hit = np.take_along_axis(wanted, order, 1)
        precisions.append((hit.cumsum(1) / place * hit).sum(1) / hit.sum(1))
        firsts.append(hit.argmax(1))
        chances.append(chance_precision(wanted.sum(1), (~out).sum(1)))
    own, first = np.concatenate(precisions), np.concatenate(firsts)
    if not len(own):
        return IdentityScores(0.0, 0.0, 0.0, dict.fromkeys(RANKS, 0.0), rows, own, 0.0)
    low, high = _interval(own, who.identities[rows], seed)
    ranks = {k: float((first < k).mean()) for k in RANKS}
    chance = float(np.concatenate(chances).mean())
    return IdentityScores(float(own.mean()), low, high, ranks, rows, own, chance)


def by_cosine(x: npt.NDArray[np.float32]) -> Callable[[Rows, Rows], Similarities]:
    """Compare rows (n, d) of length 1."""
    return lambda queries, gallery: x[queries] @ x[gallery].T


def _parts(queries: Rows, gallery: int) -> list[Rows]:
    """Cut queries so that their similarities fit in memory."""
    return np.array_split(queries, max(1, -(-len(queries) * gallery // TILE)))


def _interval(precisions: npt.NDArray[np.float64], identities: Rows, seed: int) -> tuple[float, float]:
    """Draw identities again and again, with all their queries."""
    own = np.unique(identities, return_inverse=True)[1]
    total, count = np.bincount(own, precisions), np.bincount(own)
    generator = np.random.Generator(np.random.Philox(key=rng.fold(seed, "bootstrap of identities")))
    weights = generator.multinomial(len(count), np.full(len(count), 1 / len(count)), RESAMPLES)
    drawn = (weights @ total) / (weights @ count)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
