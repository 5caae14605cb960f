"""Wraps a method for many processes; in one process it stays as it is."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..core import distributed
from ..methods.base import Method
from ..models import sync_batchnorm

HOW = ("ddp", "none")


def parallelise(method: Method, how: str = "ddp") -> nn.Module:
    """Let a method learn from every process's part of the batch as one process would from the whole.

    Args:
        method: on its device. Its batch norms are replaced by ones that see the rows of all processes.
        how: what averages the gradients: "ddp" as the backward pass goes, "none" leaves it to
            `average_gradients`, for a backward pass in pieces.

    Returns:
        What to call in the place of the method, with the same parameters; the method itself in one process.
    """
    assert how in HOW
    if distributed.world() == 1:
        return method
    sync_batchnorm(method)
    return method if how == "none" else DistributedDataParallel(method, broadcast_buffers=False)


def average_gradients(module: nn.Module) -> None:
    """Average every gradient over the processes, for a backward pass that `parallelise` did not see.

    Args:
        module: whose parameters' gradients are averaged in place.
    """
    if distributed.world() == 1:
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.world()
