"""Muon: orthogonal steps, which learn most in few epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.device import multiplies_bfloat16
from ...core.sharded import sharded_like, whole


class Muon(torch.optim.Optimizer):
    """Momentum whose step, for each matrix, is made orthogonal: every direction moves equally far.

    For a matrix or kernel w (kernels flattened to rows x rest), gradient g, rate r, momentum m, decay d:

        v <- m v + g;   u = orthogonal(g + m v);   w <- (1 - r d) w - r sqrt(max(1, rows / rest)) u

    where orthogonal(u) brings all singular values near 1 by five Newton-Schulz steps. Groups with
    `adapt` False, for biases and norms, take Adam's steps.

    Source:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the polynomial's
        coefficients (3.4445, -4.7750, 2.0315) are theirs.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        adapt: bool = True,
    ) -> None:
        """Set up.

        Args:
            params: tensors, or groups that may say otherwise on any of what follows.
            lr: the rate.
            momentum: share of the last direction that is kept.
            weight_decay: pull towards 0, times the rate.
            betas: of Adam, for the groups that it updates.
            adapt: whether steps are made orthogonal.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "betas": betas,
            "adapt": adapt,
        }
        super().__init__(params, defaults)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every tensor that has a gradient.

        Args:
            closure: not used; torch's optimizers have it.
        """
        for update in self.updates():
            update()

    @torch.no_grad()
    def updates(self) -> list[Callable[[], None]]:
        """List the updates of a step, one for each tensor; they do not depend on each other.

        Returns:
            Functions to call once each, in any order or at the same time.
        """
        found: list[tuple[int, Callable[[], None]]] = []
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                if not self.state[w]:
                    names = ("momentum",) if group["adapt"] else ("mean", "square")
                    steps = {} if group["adapt"] else {"step": torch.zeros((), dtype=torch.float32)}
                    self.state[w] = {**steps, **{name: torch.zeros_like(w) for name in names}}
                work = self._orthogonal_step if group["adapt"] else self._adam_step
                found.append((w.numel(), partial(work, w, group)))
        return [update for _, update in sorted(found, key=lambda item: -item[0])]  # the longest first

    @torch.no_grad()
    def _orthogonal_step(self, w: Tensor, group: dict[str, Any]) -> None:
        buffer = self.state[w]["momentum"]
        buffer.mul_(group["momentum"]).add_(w.grad)
        ahead = whole(w.grad + group["momentum"] * buffer).flatten(1)  # of a part nothing can be said
        rows, rest = ahead.shape
        step = sharded_like(orthogonal(ahead).to(w.dtype).view(w.shape), w)
        w.mul_(1.0 - group["lr"] * group["weight_decay"])
        w.sub_(step, alpha=group["lr"] * math.sqrt(max(1.0, rows / rest)))

    @torch.no_grad()
    def _adam_step(self, w: Tensor, group: dict[str, Any]) -> None:
        state, (fast, slow) = self.state[w], group["betas"]
        state["step"] += 1
        taken = int(state["step"])
        state["mean"].lerp_(w.grad, 1.0 - fast)
        state["square"].mul_(slow).addcmul_(w.grad, w.grad, value=1.0 - slow)
        spread = (state["square"] / (1.0 - slow**taken)).sqrt_().add_(1e-8)
        w.addcdiv_(state["mean"], spread, value=-group["lr"] / (1.0 - fast**taken))


def orthogonal(u: Tensor) -> Tensor:
    """Bring a matrix's singular values near 1 (0.7 to 1.2), leaving its singular vectors alone.

    Args:
        u: (rows, columns) floating point.

    Returns:
        (rows, columns) bfloat16, since the exact values do not matter, as the source found; float32 on a CPU
        that has no instructions for bfloat16, where products of it take thirty times as long.

    Source:
        Jordan et al. 2024: a quintic Newton-Schulz iteration, five steps.
    """
    x = u.bfloat16() if u.device.type != "cpu" or multiplies_bfloat16() else u.float()
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        quintic = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, quintic, x, beta=3.4445)
    return x.T if tall else x
