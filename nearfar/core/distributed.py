"""Distributed processes: the rank, the number of processes, and sums and gathers with gradients.

Launched by `torchrun`, every function talks to the other processes. In an ordinary process there is
one rank, and each function is the identity, so that the rest of the code is written once.

The convention over ranks: a method's terms average over ranks to the loss of the global batch. A plain
`.mean()` over a rank's own rows is then right, and the averaging that DistributedDataParallel does gives
the gradient that one process would have found.
"""

from __future__ import annotations

import atexit
import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import NearfarError

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Let this process compute by itself, as if it were the only one; the others need not take part."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world() -> int:
    """Count the processes that train together: 1 unless launched by `torchrun`."""
    if _alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number this process, from 0 to `world()` - 1."""
    if _alone:
        return 0
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def first() -> bool:
    """Tell whether this is the process that writes files and prints."""
    return rank() == 0


def start(device: torch.device | str) -> torch.device:
    """Join the other processes, if `torchrun` started any; call it once, before the data are read.

    Args:
        device: where to compute; of "cuda" each process takes the GPU of its LOCAL_RANK.

    Returns:
        This process's own device.

    Raises:
        NearfarError: the launch asks for more processes than there are GPUs, or for a device that
            cannot be shared.
    """
    device = torch.device(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return device
    if device.type not in ("cpu", "cuda"):
        raise NearfarError(
            f"{count} processes cannot share {device.type}; add --device cpu, or launch one process."
        )
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise NearfarError(
                f"process {local} has no GPU, there are {torch.cuda.device_count()}; "
                f"launch with torchrun --nproc-per-node={torch.cuda.device_count()}."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # The others wait while rank 0 decodes a large collection; torchrun itself ends them if one dies.
        patience = datetime.timedelta(hours=12)
        atexit.register(stop)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=patience)
    return device


def stop() -> None:
    """Leave the other processes; harmless where there are none."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    if world() > 1:
        # A sum on the CPU also works before a process has touched its GPU, unlike NCCL's barrier.
        dist.all_reduce(torch.zeros(1))


def same(value: Any) -> Any:
    """Give every process the value that rank 0 holds.

    Args:
        value: made of numbers, strings, booleans, None, lists and dicts, as JSON has them.

    Returns:
        Rank 0's value as JSON reads it back (tuples become lists), on one process too.
    """
    text = json.dumps(value).encode()
    if world() > 1:
        length = torch.tensor(len(text))
        dist.broadcast(length, 0)
        data = torch.zeros(int(length), dtype=torch.uint8)
        if first():
            data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        dist.broadcast(data, 0)
        text = data.numpy().tobytes()
    return json.loads(text)


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
