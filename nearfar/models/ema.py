"""An EMA copy of a network, whose weights are a moving average of the trained network's."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..core.sharded import local


def ema_copy(module: nn.Module) -> nn.Module:
    """Copy a network; the copy gets no gradient, and only `follow` moves it.

    Args:
        module: the network that learns.

    Returns:
        The copy, with the same weights and statistics.
    """
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Move every weight of the EMA copy: momentum x itself + (1 - momentum) x the network's.

    Batch norm's running statistics are left to the copy's own forward passes.

    Args:
        slow: from `ema_copy`.
        fast: the network that learns, of the same make.
        momentum: 0 to 1; 1 changes nothing.

    Source:
        He et al. 2020, "Momentum contrast", equation 2.
    """
    mine, theirs = ([local(p) for p in net.parameters()] for net in (slow, fast))
    get_ema_multi_avg_fn(momentum)(mine, theirs, 0)


def cosine_momentum(start: float, progress: float) -> float:
    """Let a momentum rise to 1 along a half cosine.

    Args:
        start: at the start of training, 0 to 1.
        progress: share of the training that is done, 0 to 1.

    Returns:
        1 - (1 - start) (cos(pi progress) + 1) / 2.

    Source:
        Grill et al. 2020, "Bootstrap your own latent" (BYOL), section 3.2.
    """
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1.0) / 2.0
