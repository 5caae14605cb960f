"""Losses over pairs and triplets of rows, exact, over the rows of all processes.

A process compares its own n rows with all M rows of all processes: memory grows with n x M, and never with
the width of a row besides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import collectives, distributed
from ..core.errors import NearfarError
from .contrastive import _rows

MINING = ("semi-hard", "hard", "all")


def _compared(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gather what a process's rows are compared with.

    Returns:
        (M, d) all processes' rows, with their gradients; (n, M) bool, whether a column has the row's label
        and is another row; (n, M) bool, whether it bears another label.
    """
    if labels.shape != z.shape[:1]:
        raise NearfarError(f"z has {len(z)} rows and labels {tuple(labels.shape)}; give one label per row.")
    labels = labels.to(z.device)
    alike = labels[:, None] == collectives.gather(labels, grad=False)
    other = ~alike
    alike.diagonal(distributed.rank() * len(z)).fill_(False)
    return collectives.gather(z), alike, other


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Give all squared distances of rows (n, d) and (M, d): (n, M)."""
    return a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T


def _mean(values: Tensor, count: Tensor) -> Tensor:
    """Divide a process's sum by the global count, so that the processes average to the global mean."""
    return values.sum() * distributed.world() / collectives.total(count.sum()).clamp(min=1)


def triplet(z: Tensor, labels: Tensor, margin: float, mining: str = "semi-hard") -> Tensor:
    """The triplet loss: an anchor a is to be nearer to a positive p than to a negative n, by a margin.

        l(a, p, n) = max(0, d(a, p) - d(a, n) + margin)

    where p is another row of a's label and n a row of another label. d is the squared distance with
    "semi-hard", as in FaceNet, and the distance itself with "hard" and "all", as in Hermans et al., who find
    that squares make a collapse more likely. Which triplets count:

    - "semi-hard": for each pair (a, p) the nearest n that is farther than p, or, where none is, the
      farthest n; the mean over the pairs.
    - "hard": for each a the farthest p and the nearest n; the mean over the anchors.
    - "all": every triplet; the mean over those above 0.

    Args:
        z: (n, d) rows of length 1, any number of views; as many on every process.
        labels: (n,) integers, each row's own; for V views stacked, `labels.repeat(V)`.
        margin: above 0; of rows of length 1, squared distances are at most 4, and distances 2.
        mining: "semi-hard", "hard" or "all".

    Returns:
        A scalar, float32 or float64, at least 0; 0 where there is no triplet. Over several processes
        these average to the loss of all rows.

    Raises:
        NearfarError: there is not one label a row, the rows are not of length 1, or the mining is unknown.

    Source:
        Schroff, Kalenichenko and Philbin 2015, "FaceNet", equations 1 to 4; "hard" and "all" are batch hard
        and batch all (of the triplets above 0) of Hermans, Beyer and Leibe 2017, "In defense of the triplet
        loss", equations 5 and 6.
    """
    if mining not in MINING:
        raise NearfarError(f"mining is {mining!r}; choose from {', '.join(MINING)}.")
    (z,) = _rows(z=z)
    with torch.autocast(z.device.type, enabled=False):
        everyone, alike, other = _compared(z, labels)
        # torch's own distance gives two equal rows, which have no direction to part in, the gradient 0.
        d = _squares(z, everyone) if mining == "semi-hard" else torch.cdist(z, everyone)  # (n, M)
        negatives = other.sum(1, keepdim=True)  # (n, 1)
        if mining == "hard":
            far = d.masked_fill(~alike, -torch.inf).amax(1)
            near = d.masked_fill(~other, torch.inf).amin(1)
            return _mean((far - near + margin).relu(), alike.any(1) & other.any(1))
        ordered = d.masked_fill(~other, torch.inf).sort(1).values  # each row's negatives, nearest first
        if mining == "semi-hard":
            first = torch.searchsorted(ordered.detach(), d.detach(), right=True)
            near = ordered.gather(1, first.minimum(negatives - 1).clamp(min=0))
            return _mean((d - near + margin).relu().where(alike, 0.0), alike)  # 0 where there is no negative
        edge = d + margin  # a positive meets every negative below it
        met = torch.searchsorted(ordered.detach(), edge.detach())
        sums = torch.nn.functional.pad(ordered.masked_fill(ordered.isinf(), 0.0).cumsum(1), (1, 0))
        return _mean((met * edge - sums.gather(1, met)).where(alike, 0.0), met.where(alike, 0))


def drlim(z: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The contrastive loss of pairs: similar rows attract, others repel up to a margin.

    With D = |z_i - z_k| over all pairs of rows, those that share a label and those that do not,

        similar = mean of 1/2 D^2        dissimilar = mean of 1/2 max(0, margin - D)^2

    Args:
        z: (n, d) rows of length 1, any number of views; as many on every process.
        labels: (n,) integers, each row's own; for V views stacked, `labels.repeat(V)`.
        margin: above 0; distances of rows of length 1 lie between 0 and 2.

    Returns:
        Two scalars, float32 or float64, whose sum is the loss; 0 where there is no such pair. Over several
        processes each averages to that of all rows.

    Raises:
        NearfarError: there is not one label a row, or the rows are not of length 1.

    Source:
        Hadsell, Chopra and LeCun 2006, "Dimensionality reduction by learning an invariant mapping",
        equation 4, with a mean over each kind of pair in the place of one sum over both.
    """
    (z,) = _rows(z=z)
    with torch.autocast(z.device.type, enabled=False):
        everyone, alike, other = _compared(z, labels)
        squares = _squares(z, everyone).where(alike, 0.0) / 2
        # torch's own distance gives two equal rows, which have no direction to part in, the gradient 0.
        short = (margin - torch.cdist(z, everyone)).relu().where(other, 0.0)
        return _mean(squares, alike), _mean(short.square() / 2, other)
