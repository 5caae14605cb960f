"""How weights are updated: LARS, SGD, AdamW or Muon, the learning rate, and its course over the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..settings import Training
from .lars import LARS
from .light import avoid_dynamo_import
from .muon import Muon, orthogonal

__all__ = ["LARS", "Muon", "base_rate", "factor", "groups", "optimizer", "orthogonal", "step"]


def groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters: matrices and kernels decay; biases, norms and scalars do not.

    Args:
        module: whose parameters.
        decay: weight decay of the first group.

    Returns:
        Up to four groups for an optimizer; `adapt` is LARS's, False for the exempt; `constant_lr` marks the
        parts that the method names so, whose rate does not fall.

    Source:
        SimCLR's code: biases and batch norms are excluded from decay and from LARS's adaptation.
    """
    names = getattr(module, "constant_lr", ())
    found = []
    for constant_lr in (False, True):
        trained = [
            p
            for name, p in module.named_parameters()
            if p.requires_grad and (name.split(".")[0] in names) == constant_lr
        ]
        decayed = [p for p in trained if p.ndim > 1]
        exempt = [p for p in trained if p.ndim <= 1]
        found += [
            {"params": decayed, "weight_decay": weight_decay, "adapt": True, "constant_lr": constant_lr},
            {"params": exempt, "weight_decay": 0.0, "adapt": False, "constant_lr": constant_lr},
        ]
    return [group for group in found if group["params"]]


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
    avoid_dynamo_import()
    lr, found = base_rate(training), groups(module, training.weight_decay)
    if training.optimizer == "lars":
        return LARS(found, lr, momentum=training.momentum)
    if training.optimizer == "muon":
        for group in found:  # Adam's steps, for biases and norms, are in another unit: a tenth suits them
            group["lr_scale"] = 1.0 if group["adapt"] else 0.1
        return Muon(found, lr)
    for group in found:
        del group["adapt"]
    if training.optimizer == "sgd":
        return torch.optim.SGD(found, lr, momentum=training.momentum, fused=True)
    return torch.optim.AdamW(found, lr, fused=True)


def step(optimizer: torch.optim.Optimizer, run_all: Callable[[Sequence[Callable[[], None]]], None]) -> None:
    """Update the weights.

    Args:
        optimizer: of a run.
        run_all: does tasks that do not depend on each other, perhaps in several threads.
    """
    if isinstance(optimizer, Muon):
        run_all(optimizer.updates())  # which are long enough to be worth it
    else:
        optimizer.step()
