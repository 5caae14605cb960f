"""The blocks of which a network consists, whatever library it is from, and their memory in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..core.errors import NearfarError
from .attention import PlainAttention

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Find the blocks: entries of a sequence or list of modules that have several layers with weights.

    Args:
        module: a network, or a method with several of them.

    Yields:
        Blocks, none within another; a transformer's layers, or a residual network's.
    """
    for child in module.children():
        inside = isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS)
        # An encoder in a sequence with its head is no block: it consists of blocks.
        if inside and not hasattr(child, "net") and _layers(child) > 1:
            yield child
        else:
            yield from blocks(child)


def _layers(module: nn.Module) -> int:
    """Count the modules with weights of their own."""
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def checkpoint_activations(module: nn.Module) -> None:
    """Let every block that learns forget what it computes, and compute it again in the backward pass.

    Args:
        module: changed in place.

    Raises:
        NearfarError: a block has batch norms, whose statistics would count every batch twice, or there is no
            block.
    """
    found = [block for block in blocks(module) if any(p.requires_grad for p in block.parameters())]
    if not found:
        raise NearfarError("the network has no blocks to compute again; leave --checkpoint-activations out.")
    if any(isinstance(part, _BatchNorm) for block in found for part in block.modules()):
        raise NearfarError(
            "--checkpoint-activations is for networks without batch norm, such as vision transformers; use "
            "--micro-batch, or leave it out."
        )
    for block in found:
        block.forward = partial(checkpoint, partial(_computed, block.forward), use_reentrant=False)


def _computed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a block, where the backward pass runs it again too, whose contexts are not those of the step."""
    with PlainAttention():
        return forward(*args, **kwargs)
