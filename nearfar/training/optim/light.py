"""Keeps torch's optimizers from importing torch's compiler where nothing of theirs is compiled.

Making an optimizer, clearing its gradients and reading its state each import `torch._dynamo` first, only to
tell it to leave them alone. That import takes seconds, more than all else between a command and its first
step but torch itself.
"""

from __future__ import annotations

import torch

MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
NOTE = "__dynamo_disable"  # where torch itself notes the answer, once it has asked the compiler


def avoid_dynamo_import() -> None:
    """Let the methods that are never compiled run as they are; torch's own way stays where it has changed."""
    for name in MARKED:
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, NOTE):
            setattr(plain, NOTE, plain)
