"""SigLIP's loss, a tile of similarities at a time: each pair of an image and a text is a question of its own.

The loss is a sum over pairs, so one pass finds it and its gradient: memory grows with the rows, not with
their square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import collectives, distributed
from . import tiled
from .contrastive import all_differ, paired, scale_of
from .logsumexp import names_of


class _Sigmoid(torch.autograd.Function):
    """See `siglip`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, names: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            ctx.names = None if names is None else names_of(names, True)
            alone = distributed.world() == 1
            total = torch.zeros((), dtype=torch.float64 if x.device.type != "mps" else x.dtype).to(x.device)
            grads = [torch.zeros_like(part) for part in (x, y, scale, bias)]
            for number, block in enumerate(collectives.blocks(y)):
                first = number * len(y)
                told = tiled.part_of(ctx.names, first, len(y))
                start = distributed.rank() * len(x) - first  # the column that row 0 belongs to
                for rows, columns, dot, slope, loss in _tiles(x, block, scale, bias, start, told):
                    total -= loss
                    grads[0][rows].addmm_(slope, block[columns])
                    if alone:
                        grads[1][columns].addmm_(slope.T, x[rows])
                    grads[2] += (slope * dot).sum()
                    grads[3] += slope.sum()
            for grad in grads[:2]:
                grad.mul_(scale)
            given = () if alone else (x, y, scale, bias)
            ctx.save_for_backward(*(grad / len(x) for grad in grads), *given)
            return (total / len(x)).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found, given = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        of_x, of_y, of_scale, of_bias = (part * grad for part in found)
        if given and ctx.needs_input_grad[1]:
            x, y, scale, bias = given
            grads = collectives.gather(grad.reshape(1), grad=False)
            of_y = _pull_of_texts(x, y, scale, bias, grads, ctx.names)
        return of_x, of_y, of_scale, of_bias, None


def _tiles(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, start: int, names: tiled.Names | None
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Give, a tile at a time, similarities, slopes of the loss in the pairs' log-odds, and minus the loss.

    Args:
        x, y: (n, d) and (m, d) rows of length 1.
        scale, bias: () of the log-odds.
        start: the column that row 0 belongs to.
        names: as for `tiled.leave_out_equal`.
    """
    for rows, columns in tiled.grid(x, y, tiled.side(x)):
        dot = x[rows] @ y[columns].T
        t = scale * dot + bias  # the log-odds of belonging together
        mine = t.diagonal(rows.start + start - columns.start)
        mine.neg_()
        tiled.leave_out_equal(t, names, rows, columns, -torch.inf)
        loss = F.logsigmoid(-t).sum()
        slope = t.sigmoid_()  # of the loss in the log-odds, but for the sign of the pairs
        mine.neg_()
        yield rows, columns, dot, slope, loss


def _pull_of_texts(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, grads: Tensor, names: tiled.Names | None
) -> Tensor:
    """Compute the gradient at this process's texts, while the images of all processes pass by.

    Args:
        x, y: (n, d), this process's own.
        scale, bias: ().
        grads: (world,) the gradient at each process's loss.
        names: of own rows and of all columns.
    """
    pull, own = torch.zeros_like(y), distributed.rank()
    for number, block in enumerate(collectives.blocks(x)):
        told = None
        if names is not None:
            numbers = names[1].split(len(x))
            told = numbers[number], numbers[own], (number - own) * len(x)
        for rows, columns, _, slope, _ in _tiles(block, y, scale, bias, (number - own) * len(x), told):
            pull[columns].addmm_(slope.T, block[rows] * (grads[number] * scale / len(x)))
    return pull


def siglip(
    z_image: Tensor,
    z_text: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    captions: Tensor | None = None,
) -> Tensor:
    """SigLIP's loss: say of each image and each text whether they belong together.

        l = -mean over i of sum over j of log sigmoid(u_ij (scale x_i . y_j + bias)), u_ii = 1, else -1

    Args:
        z_image: (n, d) rows x of length 1; as many on every process.
        z_text: (n, d) rows y of length 1, row for row.
        scale: above 0, what the similarities are multiplied by; a tensor may ask for its gradient.
        bias: what is added to them; a tensor may ask for its gradient.
        captions: (n,) integers; pairs with the same one are not compared. None: all differ.

    Returns:
        A scalar, float32 or float64, at least 0: the mean over this process's own images, each compared with
        the texts of all processes.

    Raises:
        NearfarError: the rows do not pair or are not of length 1, or scale is not above 0.

    Source:
        Zhai et al. 2023, "Sigmoid loss for language image pre-training", section 3.2.
    """
    z_image, z_text = paired(z_image, z_text, ("z_image", "z_text"))
    scale, _ = scale_of(scale, z_image, inverse=False)
    bias = bias.to(z_image.device, z_image.dtype) if isinstance(bias, Tensor) else z_image.new_full((), bias)
    names = None if captions is None or all_differ(captions) else captions
    found: Tensor = _Sigmoid.apply(z_image, z_text, scale, bias, names)
    return found
