"""Exact nearest neighbours by cosine, and k-NN classification.

Nothing is approximated and nothing is indexed: rows are compared by matrix products, a tile at a time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from ..core import progress
from ..core.errors import NearfarError

TILE = 1 << 24  # similarities in memory at a time: 64 MiB of float32
ROWS = 1 << 16  # base rows a tile spans at most; it is then 256 queries high, which matrix products like
GROUP = 4  # columns of which the largest speaks for all, when the largest of a row are looked for
SHORT = 1024  # columns that are searched directly
MANY = 1 << 26  # similarities from which a compiled pass over them pays

NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0)


def unit(x: torch.Tensor) -> torch.Tensor:
    """Scale rows to length 1, so that their inner products are cosines; a zero row stays zero.

    Args:
        x: (n, d) floats, finite.

    Returns:
        (n, d), of x's own dtype.

    Raises:
        NearfarError: a value is not finite.
    """
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    usual = (length > 1e-12) & torch.isfinite(length)
    if bool(usual.all()):
        return x / length
    made, unusual = x / length.where(usual, 1), ~usual.squeeze(1)
    # The squares of very large values overflow, those of very small ones vanish.
    rows = x[unusual]
    most = rows.abs().amax(dim=1, keepdim=True)
    if not bool(torch.isfinite(most).all()):
        raise NearfarError(
            "some vectors hold values that are not finite; look for NaN in the run's log.jsonl."
        )
    rows = rows / most.where(most > 0, 1)
    made[unusual] = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1)
    return made


def largest(x: torch.Tensor, k: int, *, order: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k largest values of each row, as `x.topk(k)` does, in less time on a CPU.

    The k groups of columns with the largest maxima hold the k largest values: any value outside them has
    k maxima above it or equal. So the maxima are searched first, the same way, and then those groups alone.

    Args:
        x: (n, m) floats, none of them NaN.
        k: how many, from 1 to m.
        order: whether the largest come first, or in any order, which is quicker.

    Returns:
        values (n, k), descending if `order`; columns (n, k) int64. Of equal values, which come first, and
        at the end which come at all, is not said.
    """
    m = x.shape[1]
    if x.device.type != "cpu" or m <= max(2 * GROUP * k, SHORT):
        return x.topk(k, dim=1, sorted=order)
    # A group is every fourth part of the row, not neighbours: maxima are then taken of whole vectors.
    part = m // GROUP
    _, group = largest(x[:, : GROUP * part].unflatten(1, (GROUP, part)).amax(dim=1), k, order=False)
    columns = (group[:, None, :] + part * torch.arange(GROUP)[:, None]).flatten(1)  # (n, GROUP * k)
    rest = torch.arange(GROUP * part, m).expand(len(x), -1)  # what is left where m is no multiple
    columns = torch.cat([columns, rest], 1)
    value, at = x.gather(1, columns).topk(k, dim=1, sorted=order)
    return value, columns.gather(1, at)


@torch.no_grad()
def top_k(
    queries: torch.Tensor, base: torch.Tensor, k: int, *, exclude_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k rows of `base` most similar to each query by cosine, exactly, the most similar first.

    Args:
        queries: (q, d) floats of any length, on any device.
        base: (n, d) floats of the same dtype and device.
        k: neighbours wanted, from 1 to n (to n - 1 with `exclude_self`).
        exclude_self: queries and base are the same rows, and a row is not its own neighbour.

    Returns:
        similarity (q, k) in [-1, 1] to rounding, descending; index (q, k) int64, rows of `base`. Of rows
        equally similar, any may come first.

    Raises:
        NearfarError: k is out of range, or a value is not finite.
    """
    if exclude_self and len(queries) != len(base):
        raise NearfarError("exclude_self needs queries and base to be the same rows.")
    most = len(base) - exclude_self
    if not 1 <= k <= most:
        raise NearfarError(f"{k} neighbours were requested among {most} other rows; ask for 1 to {most}.")
    queries, base = unit(queries), unit(base)
    if base.device.type == "cpu" and base.dtype == torch.float32 and len(queries) * len(base) >= MANY:
        with suppress(ImportError):  # without numba all goes on, if slower
            from .selection import nearest  # here, since numba takes a second to import

            return nearest(queries, base, k, exclude_self=exclude_self)
    columns = base.T.contiguous()  # (d, n): products are quicker that way
    # A span of base rows holds k neighbours at least, so every merge below has enough to choose from.
    span = min(len(base), max(ROWS, k + 1))
    step = max(1, TILE // span)
    held = queries.new_empty(min(step, len(queries)), span)  # one piece of memory for every tile
    similarity = queries.new_empty(len(queries), k)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for low in range(0, len(queries), step):
        progress.stage("comparing images", low, len(queries))
        part = queries[low : low + step]
        best: torch.Tensor | None = None
        who: torch.Tensor | None = None
        for start in range(0, len(base), span):
            some = columns[:, start : start + span]
            tile = product(part, some, held[: len(part), : some.shape[1]])  # (step, span)
            if exclude_self:
                own = torch.arange(low, low + len(part), device=tile.device) - start
                rows = ((own >= 0) & (own < tile.shape[1])).nonzero()[:, 0]
                tile[rows, own[rows]] = -torch.inf
            value, column = largest(tile, min(k, tile.shape[1]))
            column += start
            if best is not None and who is not None:
                value, chosen = torch.cat([best, value], 1).topk(k, dim=1)
                column = torch.cat([who, column], 1).gather(1, chosen)
            best, who = value, column
        assert best is not None and who is not None
        similarity[low : low + step], index[low : low + step] = best, who
    return similarity, index


def product(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Multiply x (n, d) with y (d, m) into out; on a CPU by NumPy's library, which is quicker there.

    Args:
        x, y: floats of one dtype and device.
        out: (n, m), written to.

    Returns:
        out.
    """
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        np.matmul(x.numpy(), y.numpy(), out=out.numpy())
        return out
    return torch.mm(x, y, out=out)


def knn_votes(
    similarity: torch.Tensor, labels: torch.Tensor, classes: int, temperature: float
) -> torch.Tensor:
    """Let neighbours vote for their class, each with weight exp(similarity / temperature).

    Args:
        similarity: (q, k) cosines, the most similar first, as `top_k` gives them.
        labels: (q, k) int64 in [0, classes): the neighbours' classes.
        classes: how many classes the training labels hold.
        temperature: above 0; small lets the nearest decide, large counts heads.

    Returns:
        (q, classes) shares of the vote, each row summing to 1.

    Source:
        Wu et al. 2018, "Unsupervised feature learning via instance discrimination", section 3.4.
    """
    # Less the largest, so that exp cannot overflow at small temperatures; the shares are the same.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = weight.new_zeros(len(weight), classes).scatter_add_(1, labels, weight)
    return votes / votes.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Vote:
    """How neighbours vote: how many of them, and at which temperature."""

    k: int
    temperature: float


def choose_vote(similarity: torch.Tensor, labels: torch.Tensor, truth: torch.Tensor, classes: int) -> Vote:
    """Choose k and temperature from `NEIGHBOURS` and `TEMPERATURES` by accuracy on held-out images.

    Args:
        similarity: (q, m) cosines of validation images to their m nearest, the most similar first.
        labels: (q, m) int64, those neighbours' classes.
        truth: (q,) int64, the held-out images' own classes.
        classes: how many classes there are.

    Returns:
        The best pair; of equals, the one with fewer neighbours, then the lower temperature.
    """
    best, found = -1, Vote(1, TEMPERATURES[0])
    for k in (k for k in NEIGHBOURS if k <= similarity.shape[1]):
        for temperature in TEMPERATURES:
            votes = knn_votes(similarity[:, :k], labels[:, :k], classes, temperature)
            right = int((votes.argmax(dim=1) == truth).sum())
            if right > best:
                best, found = right, Vote(k, temperature)
    return found
