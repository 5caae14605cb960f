"""How weights are updated: LARS, SGD or AdamW, the learning rate, and its course over the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .settings import Training


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is, for each tensor, in proportion to the length of its weights.

    For weights w, gradient g, rate r, momentum m and decay d:

        g <- g + d w;   r' = r * eta * |w| / |g| (r itself where either is 0);   v <- m v + r' g;   w <- w - v

    so the rate is inside the momentum's buffer, as in the paper and in SimCLR's code. (The variant of
    FAIR's repositories keeps the rate outside; the two differ while the rate changes.) Groups with
    `adapt` False, for biases and norms, take plain SGD steps.

    Source:
        You, Gitman and Ginsburg 2017, "Large batch training of convolutional networks", algorithm 1; SimCLR,
        section 2.2 and appendix B.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        adapt: bool = True,
    ) -> None:
        """Set up.

        Args:
            params: tensors, or groups that may say otherwise on any of what follows.
            lr: the rate.
            momentum: share of the last step that is kept.
            weight_decay: pull towards 0, before the rate is adapted.
            eta: trust, the length of a step as a share of the weights' length at rate 1.
            adapt: whether the rate follows the weights' length.
        """
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": adapt}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every tensor that has a gradient.

        Args:
            closure: not used; torch's optimizers have it.
        """
        for group in self.param_groups:
            weights: list[Tensor] = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            for w in weights:
                if "momentum" not in self.state[w]:
                    self.state[w]["momentum"] = torch.zeros_like(w)
            slopes = [w.grad for w in weights if w.grad is not None]
            buffers: list[Tensor] = [self.state[w]["momentum"] for w in weights]
            # The gradients are left as they are; the list operations are a few launches on a GPU.
            steps = list(torch._foreach_add(slopes, weights, alpha=group["weight_decay"]))
            if group["adapt"]:
                for step, size, slope in zip(
                    steps, torch._foreach_norm(weights), torch._foreach_norm(steps), strict=True
                ):
                    trust = group["eta"] * size / slope
                    step.mul_(torch.where((size > 0) & (slope > 0), trust, torch.ones_like(trust)))
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, steps, alpha=group["lr"])
            torch._foreach_sub_(weights, buffers)


def groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters: matrices and kernels decay; biases, norms and scalars do not.

    Args:
        module: whose parameters.
        decay: weight decay of the first group.

    Returns:
        Up to two groups for an optimizer; `adapt` is LARS's, False for the exempt.

    Source:
        SimCLR's code: biases and batch norms are excluded from decay and from LARS's adaptation.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    exempt = [p for p in trained if p.ndim <= 1]
    both = [
        {"params": decayed, "weight_decay": decay, "adapt": True},
        {"params": exempt, "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in both if group["params"]]


def base_rate(training: Training) -> float:
    """Compute the highest learning rate of a run from its base, its batch and its rule.

    Args:
        training: its settings; the batch is the global one.

    Returns:
        The rate: base, base x batch / 256, or base x sqrt(batch).

    Source:
        SimCLR, section 2.2 and appendix B.1.
    """
    scale = {"fixed": 1.0, "linear": training.batch / 256, "sqrt": math.sqrt(training.batch)}
    return training.rate * scale[training.rate_rule]


def factor(progress: float, warmup: float) -> float:
    """Give the course of the learning rate: a straight rise, then a half cosine down to 0.

    Args:
        progress: share of the training, 0 to 1.
        warmup: share of the training that the rise takes, 0 to 1.

    Returns:
        What to multiply the base rate with, 0 to 1.

    Source:
        SimCLR, section 2.2; Loshchilov and Hutter 2017, "SGDR", equation 5.
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
    rate, found = base_rate(training), groups(module, training.decay)
    if training.optimizer == "lars":
        return LARS(found, rate, momentum=training.momentum)
    for group in found:
        del group["adapt"]
    if training.optimizer == "sgd":
        return torch.optim.SGD(found, rate, momentum=training.momentum)
    return torch.optim.AdamW(found, rate, fused=True)
