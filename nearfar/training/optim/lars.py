"""LARS: steps in proportion to the length of each tensor's weights, as SimCLR trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...core import collectives
from ...core.sharded import is_sharded, local


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
            buffers = [local(self.state[w]["momentum"]) for w in weights]
            parts, slopes = (
                [local(w) for w in weights],
                [local(w.grad) for w in weights if w.grad is not None],
            )
            # The gradients are left as they are; the list operations are a few launches on a GPU.
            steps = list(torch._foreach_add(slopes, parts, alpha=group["weight_decay"]))
            if group["adapt"]:
                cut = [is_sharded(w) for w in weights]
                for step, size, slope in zip(steps, _lengths(parts, cut), _lengths(steps, cut), strict=True):
                    trust = group["eta"] * size / slope
                    step.mul_(torch.where((size > 0) & (slope > 0), trust, torch.ones_like(trust)))
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, steps, alpha=group["lr"])
            torch._foreach_sub_(parts, buffers)


def _lengths(tensors: list[Tensor], cut: list[bool]) -> list[Tensor]:
    """Measure tensors; of those that are cut, this process has its parts, and one sum over all tells."""
    found = list(torch._foreach_norm(tensors))
    sharded = [at for at, here in enumerate(cut) if here]
    if sharded:
        squares = torch.stack([found[at] for at in sharded]).square()
        for at, length in zip(sharded, collectives.total(squares).sqrt(), strict=True):
            found[at] = length
    return found
