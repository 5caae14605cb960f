"""Wraps a method for many processes; in one process it stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..core import distributed
from ..core.sharded import is_sharded, whole
from ..methods.base import Method
from ..models import blocks, sync_batchnorm

HOW = ("ddp", "fsdp", "none")


def parallelise(method: Method, how: str = "ddp", precision: str = "float32") -> nn.Module:
    """Let a method learn from every process's part of the batch as one process would from the whole.

    Args:
        method: on its device. Its batch norms are replaced by ones that see the rows of all processes.
        how: "ddp" averages the gradients as the backward pass goes; "fsdp" also leaves to each process a part
            of the weights of every block, so an optimizer is made afterwards; "none" leaves the averaging to
            `average_gradients`, for a backward pass in pieces. A method that is sharded stays so.
        precision: in which the weights of sharded blocks are gathered, "float32" (as they are) or "bfloat16".

    Returns:
        What to call in the place of the method, with the same parameters; the method itself in one process.

    Source:
        Zhao et al. 2023, "PyTorch FSDP: experiences on scaling fully sharded data parallel".
    """
    assert how in HOW
    if distributed.world() == 1 or is_shared(method):
        return method
    sync_batchnorm(method)
    if how == "fsdp":
        _shard(method, precision)
        return method
    if how == "none":
        return method
    with warnings.catch_warnings():
        # torch 2.15 calls this old, but has nothing else that leaves buffers alone from the start.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return DistributedDataParallel(method, broadcast_buffers=False)


def is_shared(method: nn.Module) -> bool:
    """Tell whether each process holds a part of a method's blocks.

    Args:
        method: perhaps from `parallelise`.
    """
    return any(is_sharded(parameter) for parameter in method.parameters())


def _shard(method: Method, precision: str) -> None:
    """Shard every block; what lies outside of blocks, such as heads, each process keeps whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = next(method.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.world(),))
    # Inputs are not cast: autocast chooses the arithmetic, as without sharding.
    half = torch.bfloat16 if precision == "bfloat16" else None
    policy = MixedPrecisionPolicy(half, torch.float32 if half else None, cast_forward_inputs=False)
    for block in blocks(method):
        block.to(memory_format=torch.contiguous_format)
        # Also where it is the root: an EMA copy reads and writes the parts between steps.
        scalars = {parameter for parameter in block.parameters() if not parameter.ndim}  # cannot be cut
        fully_shard(
            block, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=scalars or None
        )
    # The root brings no weights: it lets a block's weights be gathered while another one computes.
    rest = {parameter for parameter in method.parameters() if not is_sharded(parameter)}
    fully_shard(method, mesh=mesh, ignored_params=rest)


def embeds_in_pieces(method: Method) -> None:
    """Let `embed` be called in the place of a sharded method.

    Args:
        method: from `parallelise`.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    if "embed" not in method.__dict__:
        register_fsdp_forward_method(method, "embed")


def average_gradients(module: nn.Module) -> None:
    """Average the gradients over the processes, for a backward pass that `parallelise` did not see.

    Args:
        module: whose parameters' gradients are averaged in place, but for sharded ones, which are.
    """
    if distributed.world() == 1:
        return
    for parameter in module.parameters():
        if parameter.grad is not None and not is_sharded(parameter):
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.world()


def gathered(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Gather the weights and buffers of a module, one at a time; every process must go through them all.

    Args:
        module: perhaps sharded.

    Yields:
        Name and the whole tensor, on its device.
    """
    for name, value in module.state_dict().items():
        yield name, whole(value)
