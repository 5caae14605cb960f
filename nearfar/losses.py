"""Contrastive losses, exact, in memory that grows with the batch and not with its square.

The similarities of all pairs are computed a tile at a time, used, and dropped; the backward pass computes
them again. Half of them suffice, since the similarity of (a, b) is that of (b, a).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import parallel

# exp(-2 / tau) is the smallest term that unit rows can give; above this scale float32 cannot hold it.
_WIDEST_FLOAT32_SCALE = 40.0


def unit(z: Tensor) -> Tensor:
    """Scale rows to length 1, in float32 at least, so that a low-precision network keeps an exact loss.

    Args:
        z: (n, d) floating point.

    Returns:
        (n, d) float32, or float64 where `z` is.
    """
    return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)


def _tile(z: Tensor) -> int:
    """Choose the side of a tile: it should fill a CPU's cache, or a GPU."""
    return 512 if z.device.type == "cpu" else 4096


def _pairs(own: range, count: int, tile: int) -> Iterator[tuple[slice, slice, bool]]:
    """List the tiles that cover own rows x all rows, leaving out those a mirrored tile stands for.

    Args:
        own: the rows this process answers for.
        count: rows in all; the own rows of every process are as many as these.
        tile: side of a tile.

    Yields:
        rows, columns, and whether the tile stands for its mirror image too.
    """
    for top in range(own.start, own.stop, tile):
        rows = slice(top, min(top + tile, own.stop))
        for start in range(0, count, len(own)):
            mine = start == own.start
            for left in range(top if mine else start, start + len(own), tile):
                columns = slice(left, min(left + tile, start + len(own)))
                yield rows, columns, mine and left > top


def _exponentials(
    scaled: Tensor, z: Tensor, scale: Tensor, rows: slice, columns: slice, out: Tensor
) -> Tensor:
    """Compute exp((z_a . z_b - 1) / tau) for one tile, with zeros where a row meets itself."""
    a, b = scaled[rows], z[columns]
    e = out[: len(a) * len(b)].view(len(a), len(b))
    torch.mm(a, b.T, out=e).sub_(scale).exp_()
    if rows == columns:
        e.fill_diagonal_(0.0)
    return e


class _NTXent(torch.autograd.Function):
    """NT-Xent of the own rows against all rows; see `nt_xent`.

    The 2n own rows are z_1 to z_n, then their partners. The largest logit of unit rows, 1/tau, is
    subtracted before exp, and added back as a constant.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            everyone = parallel.gather(z, grad=False)  # (M, D)
            own = range(parallel.rank() * len(z), (parallel.rank() + 1) * len(z))
            tile = _tile(z)
            scratch, scaled = z.new_empty(tile * tile), everyone * scale
            den = z.new_zeros(len(everyone))
            for rows, columns, mirrored in _pairs(own, len(everyone), tile):
                e = _exponentials(scaled, everyone, scale, rows, columns, scratch)
                den[rows] += e.sum(1)
                if mirrored:
                    den[columns] += e.sum(0)
            den = den[own.start : own.stop]
            half = len(z) // 2
            positive = (z[:half] * z[half:]).sum(1).repeat(2)  # (2n,) z_i . z_j
            ctx.save_for_backward(z, everyone, scale, den, positive)
            ctx.own = own
            return (den.log() + scale - scale * positive).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, everyone, scale, den, positive = ctx.saved_tensors
        own: range = ctx.own
        with torch.autocast(z.device.type, enabled=False):
            share = grad / len(z)  # of the loss, for each own anchor
            # What an anchor of another process asks of our rows is found here, by symmetry, from its den.
            ratio = parallel.gather(share / den, grad=False)  # (M,)
            tile = _tile(z)
            scratch, scaled = z.new_empty(tile * tile), everyone * scale
            pull = torch.zeros_like(z)
            spread = z.new_zeros(()) if ctx.needs_input_grad[1] else None
            for rows, columns, mirrored in _pairs(own, len(everyone), tile):
                e = _exponentials(scaled, everyone, scale, rows, columns, scratch)
                if spread is not None:
                    slack = torch.mm(everyone[rows], everyone[columns].T).sub_(1.0).mul_(e)
                    spread += slack.sum(1) @ ratio[rows]
                    if mirrored:
                        spread += slack.sum(0) @ ratio[columns]
                e.mul_(ratio[rows, None] + ratio[columns])
                here = slice(rows.start - own.start, rows.stop - own.start)
                pull[here].addmm_(e, everyone[columns])
                if mirrored:
                    there = slice(columns.start - own.start, columns.stop - own.start)
                    pull[there].addmm_(e.T, everyone[rows])
            half = len(z) // 2
            pull[:half].addcmul_(z[half:], share, value=-2.0)  # the pair counts from both its ends
            pull[half:].addcmul_(z[:half], share, value=-2.0)
            pull.mul_(scale)
            if spread is not None:
                spread += share * (1.0 - positive).sum()
            return pull, spread


def nt_xent(z_i: Tensor, z_j: Tensor, tau: float | Tensor) -> Tensor:
    """The normalised temperature-scaled cross-entropy: tell each view's partner from all other views.

    With the 2N views z_1 ... z_2N of N images, of which i and j are a pair,

        l(i, j) = -log( exp(z_i . z_j / tau) / sum over k != i of exp(z_i . z_k / tau) )

    and the loss is the mean of l over all 2N ordered pairs. (The authors' code returns twice that.)
    Over several processes the negatives are everyone's. The value is the mean over this process's own
    anchors; the gradient at its rows is that of the sum of all processes' values.

    Args:
        z_i: (n, d) rows of length 1, the first view of each image, any floating type; computed in
            float32 even under autocast, or in float64 if given so (or if tau < 0.025, whose range needs it).
        z_j: (n, d) the second view, row for row; as many rows on every process.
        tau: temperature above 0; a tensor of no dimensions may ask for its gradient.

    Returns:
        A scalar, float32 or float64, at least 0.

    Source:
        Chen et al. 2020, "A simple framework for contrastive learning", equation 1.
    """
    z = torch.cat([z_i, z_j])
    scale = 1.0 / torch.as_tensor(tau, dtype=torch.float64 if z.device.type != "mps" else torch.float32)
    exact = z.dtype == torch.float64 or float(scale) > _WIDEST_FLOAT32_SCALE
    device = torch.device("cpu") if exact and z.device.type == "mps" else z.device  # MPS has no float64
    dtype = torch.float64 if exact else torch.float32
    loss: Tensor = _NTXent.apply(z.to(device, dtype), scale.to(device, dtype))
    return loss.to(z.device, z.dtype if z.dtype == torch.float64 else torch.float32)


@torch.no_grad()
def contrastive_accuracy(z_i: Tensor, z_j: Tensor) -> Tensor:
    """Share of views, over all processes, whose most similar other view is their partner.

    Every process must call it at the same time.

    Args:
        z_i: (n, d) rows of length 1, the first view of each image.
        z_j: (n, d) the second view, row for row.

    Returns:
        A scalar float32 in [0, 1].
    """
    with torch.autocast(z_i.device.type, enabled=False):
        z = torch.cat([z_i, z_j]).float()
        everyone = parallel.gather(z, grad=False)
        start, tile = parallel.rank() * len(z), _tile(z)
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2) + start
        hits = z.new_zeros(())
        for top in range(0, len(z), tile):
            best = z.new_full((len(z[top : top + tile]),), -torch.inf)
            which = partner.new_zeros(best.shape)
            for left in range(0, len(everyone), tile):
                similarity = z[top : top + tile] @ everyone[left : left + tile].T
                similarity.diagonal(start + top - left).fill_(-torch.inf)
                top_value, column = similarity.max(1)
                better = top_value > best
                best, which = torch.where(better, top_value, best), torch.where(better, column + left, which)
            hits += (which == partner[top : top + tile]).sum()
        return parallel.total(hits) / len(everyone)
