"""How weights are updated: LARS, SGD, AdamW or Muon, the learning rate, and its course over the training."""

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

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every tensor that has a gradient.

        Args:
            closure: not used; torch's optimizers have it.
        """
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                if group["adapt"]:
                    self._orthogonal_step(w, group)
                else:
                    self._adam_step(w, group)

    def _orthogonal_step(self, w: Tensor, group: dict[str, Any]) -> None:
        state = self.state[w]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(w)
        buffer = state["momentum"]
        buffer.mul_(group["momentum"]).add_(w.grad)
        ahead = (w.grad + group["momentum"] * buffer).flatten(1)
        rows, rest = ahead.shape
        step = orthogonal(ahead).to(w.dtype).view(w.shape)
        w.mul_(1.0 - group["lr"] * group["weight_decay"])
        w.sub_(step, alpha=group["lr"] * math.sqrt(max(1.0, rows / rest)))

    def _adam_step(self, w: Tensor, group: dict[str, Any]) -> None:
        state, (fast, slow) = self.state[w], group["betas"]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["mean"], state["square"] = torch.zeros_like(w), torch.zeros_like(w)
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
        (rows, columns) bfloat16; the exact values do not matter, as the source found.

    Source:
        Jordan et al. 2024: a quintic Newton-Schulz iteration, five steps.
    """
    x = u.bfloat16()
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        quintic = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, quintic, x, beta=3.4445)
    return x.T if tall else x


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
    if training.optimizer == "muon":
        for group in found:  # Adam's steps, for biases and norms, are in another unit: a tenth suits them
            group["share"] = 1.0 if group["adapt"] else 0.1
        return Muon(found, rate)
    for group in found:
        del group["adapt"]
    if training.optimizer == "sgd":
        return torch.optim.SGD(found, rate, momentum=training.momentum)
    return torch.optim.AdamW(found, rate, fused=True)
