"""Keeps torch's optimizers and torchvision from importing torch's compiler where nothing is compiled.

Making an optimizer, clearing its gradients, reading its state and taking a step each import `torch._dynamo`
first, only to tell it to leave them alone; torchvision and timm import it for what they seldom use. That
import takes seconds, more than all else between a command and its first step but torch itself. To import this
module is enough for all of an optimizer but its step.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import torch

from .imports import large_imports

MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
COMPILER = ("torch._dynamo", "torch._dynamo.utils")
NOTE = "__dynamo_disable"  # where torch itself notes the answer, once it has asked the compiler


def step(optimizer: torch.optim.Optimizer) -> None:
    """Take a step without what torch wraps its own optimizers' steps in.

    Args:
        optimizer: any that is not `differentiable`.
    """
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def import_without_compiler(library: str) -> None:
    """Import torchvision, or timm, which needs torchvision, without importing the compiler.

    Nothing happens where the library, or the compiler, is there. What is wrong with a library that cannot be
    imported hears whoever imports it next.

    Args:
        library: "torchvision" or "timm".
    """
    if library in sys.modules or COMPILER[0] in sys.modules:
        return
    for name in COMPILER:
        sys.modules[name] = _Later(name)
    try:
        with suppress(Exception), large_imports():
            importlib.import_module(library)
    finally:
        _clear()


class _Later(ModuleType):
    """Stands for a module of the compiler until something of it is asked for, which imports the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself asks of a module
            raise AttributeError(name)
        if name in INSTEAD:
            return INSTEAD[name]
        _clear()
        return getattr(importlib.import_module(self.__name__), name)


def _is_compile_supported(device: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device))


def _disable(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """Keep a function from being compiled, from its first call on."""
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def later(*given: Any, **named: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            from torch._dynamo import disable

            disabled = disable(function, *args, **kwargs)
        return disabled(*given, **named)

    return later


INSTEAD = {"is_compile_supported": _is_compile_supported, "disable": _disable}
"""What torchvision and timm ask of the compiler as they are imported."""


def _clear() -> None:
    """Take away what stands for the compiler."""
    for name in COMPILER:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


def _avoid_import() -> None:
    """Let the methods that are never compiled run as they are; torch's own way stays where it has changed."""
    for name in MARKED:
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, NOTE):
            setattr(plain, NOTE, plain)


_avoid_import()
