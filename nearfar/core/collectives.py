"""What processes that train together exchange: sums, gathers and products with gradients.

Launched by `torchrun`, every function talks to the other processes. In an ordinary process each is the
identity, so that the rest of the code is written once.

The convention over ranks: a method's terms average over ranks to the loss of the global batch. A plain
`.mean()` over a rank's own rows is then right, and the averaging that DistributedDataParallel does gives
the gradient that one process would have found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .distributed import rank, world


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _collect(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world())[rank()]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad


def _collect(x: Tensor) -> Tensor:
    """Gather equal pieces, in the order of the ranks, without a gradient."""
    pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(pieces, x.contiguous())
    return torch.cat(pieces)


def blocks(x: Tensor) -> Iterator[Tensor]:
    """Give the rows that every process holds, those of one process at a time, in the order of the ranks.

    At most two blocks are in memory besides x, one of them on its way. Every process has to take all blocks.

    Args:
        x: (n, ...), the same shape on every process; no gradient flows back.

    Yields:
        (n, ...), of rank 0, then of rank 1, and so on.
    """
    x = x.detach().contiguous()
    if world() == 1:
        yield x
        return

    def ask(origin: int) -> tuple[Tensor, Any]:
        block = x if origin == rank() else torch.empty_like(x)
        return block, dist.broadcast(block, origin, async_op=True)

    waiting = ask(0)
    for origin in range(world()):
        block, sent = waiting
        sent.wait()
        if origin + 1 < world():
            waiting = ask(origin + 1)
        yield block


def gather(x: Tensor, grad: bool = True) -> Tensor:
    """Stack the rows that every process holds, in the order of the ranks.

    Args:
        x: (n, ...), the same shape on every process.
        grad: whether the gradient flows back: each process then receives, for its own rows, the sum of
            what all processes' losses ask of them.

    Returns:
        (world * n, ...).
    """
    if world() == 1:
        return x if grad else x.detach()
    gathered: Tensor = _Gather.apply(x) if grad else _collect(x.detach())
    return gathered


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.cat([a @ block.T for block in blocks(b)], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        parts = grads[0].split(len(b), 1)
        of_a, of_b = torch.zeros_like(a), b
        for origin, (part, block) in enumerate(zip(parts, blocks(b), strict=True)):
            of_a += part @ block
            pull = (part.T @ a).contiguous()
            dist.reduce(pull, origin)
            of_b = pull if origin == rank() else of_b
        return of_a, of_b


def products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply own rows with those of all processes, which pass by and are never held together.

    Args:
        a: (n, d), as many on every process.
        b: (m, d), of the same dtype, as many on every process; gradients flow back as they do from `gather`.

    Returns:
        (n, world * m) inner products, columns in the order of the ranks.
    """
    if world() == 1:
        return a @ b.T
    found: Tensor = _Products.apply(a, b)
    return found


def total(x: Tensor) -> Tensor:
    """Add a tensor over all processes; the gradient is added over them too.

    Args:
        x: any shape, the same on every process.

    Returns:
        The sum, the same on every process.
    """
    if world() == 1:
        return x
    summed: Tensor = _Total.apply(x)
    return summed
