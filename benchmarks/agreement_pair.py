"""What the agreement of methods with others' code and with slow references shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar import methods, models

SIDE = 16  # of images, in pixels
BOUND = 1e-9
Loss = Callable[..., Tensor]
Pair = tuple[Loss, Loss, list[Tensor]]  # ours, theirs, and what both are given and have gradients for


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Draw normal numbers, in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name: str, *rest: Any, encoder: str = "resnet10_w16", **settings: Any) -> Any:
    """Build a method in float64, on a small encoder; `rest` is what it needs besides its settings."""
    config = methods.settings(name)(**settings)
    return methods.method(name)(models.encoder(encoder, size=SIDE), config, *rest).double()


def differences(make: Callable[[], Pair]) -> tuple[float, float]:
    """Compare one method with its reference or peer: the value's difference, and the greatest gradient's."""
    torch.manual_seed(0)
    *computed, inputs = make()
    found = []
    for compute in computed:
        z = [each.clone().requires_grad_() for each in inputs]
        loss = compute(*z)
        found.append((loss.detach(), *torch.autograd.grad(loss, z)))
    ours, theirs = found
    assert min(float(grad.abs().max()) for grad in ours[1:]) > 1e-6
    value, *grads = (float((x - y).abs().max()) for x, y in zip(ours, theirs, strict=True))
    return value, max(grads)


def report(
    checks: Mapping[str, Callable[[], Pair]], looser: Mapping[str, float], kind: str = ""
) -> list[str]:
    """Print a line a method.

    Args:
        checks: by name.
        looser: bounds of those that are not compared to rounding.
        kind: added to the names.

    Returns:
        What is wrong: the names of those that differ, and of those whose peer is not installed.
    """
    wrong = []
    for name, make in checks.items():
        line = f"{name + kind:<60}"
        try:
            value, grad = differences(make)
        except ModuleNotFoundError as error:
            wrong.append(name)
            print(f"{line} not compared: {error}")
            continue
        print(f"{line} value {value:.0e}  gradient {grad:.0e}")
        if not max(value, grad) < looser.get(name, BOUND):
            wrong.append(name)
    return wrong


def verdict(wrong: list[str]) -> int:
    """Say whether all agree, and give the command's exit status."""
    print(f"they differ, or were not compared: {', '.join(wrong)}" if wrong else "all agree")
    return int(bool(wrong))
