"""How weights are updated: LARS, SGD, AdamW or Muon, the learning rate, and its course over the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ...core import dynamo
from ...core.sharded import is_sharded
from .. import adapting
from ..settings import Training
from .lars import LARS
from .muon import Muon, orthogonal

__all__ = ["LARS", "Muon", "base_rate", "factor", "groups", "optimizer", "orthogonal", "step"]


def groups(
    module: nn.Module, weight_decay: float, shares: Mapping[str, float] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Sort the trainable parameters: matrices and kernels decay; biases, norms and scalars do not.

    Args:
        module: whose parameters.
        weight_decay: of the first group.
        shares: of the learning rate, by name of a parameter; 1 where it is not named.

    Returns:
        For each share up to four groups for an optimizer, or eight where some tensors are sharded; `adapt` is
        LARS's, False for the exempt; `constant_lr` marks the parts that the method names so, whose rate does
        not fall; `lr_scale` is the share.

    Source:
        SimCLR's code: biases and batch norms are excluded from decay and from LARS's adaptation.
    """
    constant, sorted_by = getattr(module, "constant_lr", ()), dict[tuple[Any, ...], list[nn.Parameter]]()
    for name, p in module.named_parameters():
        if p.requires_grad:
            # Operations on lists of tensors take sharded ones or others, not both.
            key = (-shares.get(name, 1.0), name.split(".")[0] in constant, p.ndim <= 1, is_sharded(p))
            sorted_by.setdefault(key, []).append(p)
    return [
        {
            "params": sorted_by[key],
            "weight_decay": 0.0 if key[2] else weight_decay,
            "adapt": not key[2],
            "constant_lr": key[1],
            "lr_scale": -key[0],
        }
        for key in sorted(sorted_by)
    ]


def base_rate(training: Training) -> float:
    """Compute the highest learning rate of a run from its base, its batch and its rule.

    Args:
        training: its settings; the batch is the global one.

    Returns:
        The rate: base, base x batch / 256, or base x sqrt(batch).

    Source:
        SimCLR, section 2.3 and appendix B.1.
    """
    scale = {"fixed": 1.0, "linear": training.batch_size / 256, "sqrt": math.sqrt(training.batch_size)}
    return training.lr * scale[training.lr_scaling]


def factor(progress: float, warmup: float) -> float:
    """Give the course of the learning rate: a straight rise, then a half cosine down to 0.

    Args:
        progress: share of the training, 0 to 1.
        warmup: share of the training that the rise takes, 0 to 1.

    Returns:
        What to multiply the base rate with, 0 to 1.

    Source:
        SimCLR, section 2.3; Loshchilov and Hutter 2017, "SGDR", equation 5.
    """
    if progress < warmup:
        return progress / warmup
    if warmup >= 1.0:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (progress - warmup) / (1.0 - warmup))))


def optimizer(training: Training, module: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a run; its groups start at `base_rate`.

    Args:
        training: the settings.
        module: what is trained, on its device.

    Returns:
        The optimizer.
    """
    shares: dict[str, float] = {}
    if training.encoder_rate * training.rate_decay < 1:
        encoder = module.get_submodule("f")
        shares = {f"f.{name}": share for name, share in adapting.rates(encoder, training).items()}
    lr, found = base_rate(training), groups(module, training.weight_decay, shares)
    if training.optimizer == "lars":
        return LARS(found, lr, momentum=training.momentum)
    if training.optimizer == "muon":
        for group in found:  # Adam's steps, for biases and norms, are in another unit: a tenth suits them
            group["lr_scale"] *= 1.0 if group["adapt"] else 0.1
        return Muon(found, lr)
    for group in found:
        del group["adapt"]
    if training.optimizer == "sgd":
        # torch 2.15 does not know how to take its fused step on sharded tensors.
        whole = not any(map(is_sharded, module.parameters()))
        return torch.optim.SGD(found, lr, momentum=training.momentum, fused=whole)
    return torch.optim.AdamW(found, lr, getattr(module, "betas", (0.9, 0.999)), fused=True)


def step(optimizer: torch.optim.Optimizer, run_all: Callable[[Sequence[Callable[[], None]]], None]) -> None:
    """Update the weights.

    Args:
        optimizer: of a run.
        run_all: does tasks that do not depend on each other, perhaps in several threads.
    """
    if isinstance(optimizer, Muon):
        run_all(optimizer.updates())  # which are long enough to be worth it
    else:
        dynamo.step(optimizer)
