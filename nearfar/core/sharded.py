"""Tensors of which each process holds a part: torch's DTensor, without importing it."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor


def is_sharded(x: Any) -> bool:
    """Tell whether each process holds a part of a tensor.

    Args:
        x: any tensor.
    """
    return hasattr(x, "full_tensor")


def whole(x: Tensor) -> Tensor:
    """Gather a tensor of which each process holds a part; every process must call it.

    Args:
        x: any tensor.

    Returns:
        All of it, on its device; `x` itself where it is not sharded.
    """
    return cast(Any, x).full_tensor() if is_sharded(x) else x


def local(x: Tensor) -> Tensor:
    """Give the part of a tensor that this process holds, which is the same memory.

    Args:
        x: any tensor; `x` itself where it is not sharded.
    """
    return cast(Any, x).to_local() if is_sharded(x) else x


def sharded_like(x: Tensor, other: Tensor) -> Tensor:
    """Keep this process's part of a tensor that every process has whole.

    Args:
        x: whole, the same on every process.
        other: of the same shape, perhaps sharded.

    Returns:
        `x` on the other's device, sharded as it is.
    """
    if not is_sharded(other):
        return x.to(other.device)
    from torch.distributed.tensor import distribute_tensor

    placed = cast(Any, other)
    # No source: each process cuts its part from its own copy, and nothing is sent.
    return distribute_tensor(
        x.detach().to(other.device), placed.device_mesh, placed.placements, src_data_rank=None
    )
