"""Keeps torch's optimizers from importing torch's compiler where nothing of theirs is compiled.

Making an optimizer, clearing its gradients, reading its state and taking a step each import `torch._dynamo`
first, only to tell it to leave them alone. That import takes seconds, more than all else between a command
and its first step but torch itself. To import this module is enough for all but the step.
"""

from __future__ import annotations

import inspect

import torch

MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
NOTE = "__dynamo_disable"  # where torch itself notes the answer, once it has asked the compiler


def step(optimizer: torch.optim.Optimizer) -> None:
    """Take a step without what torch wraps its own optimizers' steps in.

    Args:
        optimizer: any that is not `differentiable`.
    """
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def _avoid_import() -> None:
    """Let the methods that are never compiled run as they are; torch's own way stays where it has changed."""
    for name in MARKED:
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, NOTE):
            setattr(plain, NOTE, plain)


_avoid_import()
