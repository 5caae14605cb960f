"""What tests of every method share: a small one of each, pictures to learn from, its docstring's loops."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import torch

from nearfar import methods, models
from nearfar.core.config import build, settings_of
from nearfar.images.view_settings import Views
from nearfar.methods.base import Batch, Loss, Method

IMAGE_METHODS = [name for name in methods.METHODS if methods.method(name).modality in (None, "images")]
"""Those that learn from images, as the tests of every method do; others have tests of their own kind's."""


def narrow(name: str) -> dict[str, Any]:
    """A method's settings with every width and length above 16 cut to 16, and three classes to tell apart."""
    values: dict[str, Any] = {}
    for item in settings_of(methods.settings(name)):
        if item.type is int and item.many:
            values[item.name] = [min(16, width) for width in item.default]
        elif item.type is int and item.default is not None:
            values[item.name] = min(16, item.default)
    return values | ({"classes": 3} if "classes" in values else {})


def encoder_of(name: str) -> str:
    """A tiny encoder that a method can train."""
    return "vit_w64_d2" if "tokens" in methods.method(name).needs else "resnet10_w16"


def small(name: str, *, network: str | None = None, **values: Any) -> Method:
    """A method with a tiny encoder; the same weights each time."""
    with models.seeded(0, name):
        f = models.encoder(network or encoder_of(name), size=16)
        config = build(methods.settings(name), narrow(name) | values)
        needs = methods.method(name).requires(config)
        given = {"images": 32} if "images" in needs else {}
        given |= {"teacher": tokenizer() if name == "beit" else teacher()} if "teacher" in needs else {}
        return methods.method(name)(f, config, **given)


def teacher() -> types.SimpleNamespace:
    """A tiny encoder to learn from, with random weights, whose vectors belong to `pictures`."""
    with models.seeded(1, "teacher"):
        f = models.encoder("resnet10_w16", size=16).eval().requires_grad_(False)
    return types.SimpleNamespace(encoder=f, size=16)


def tokenizer() -> types.SimpleNamespace:
    """A tiny encoder with random weights, and words for places of its map; `pictures` use some of them."""
    from nearfar.methods.dvae import Words

    with models.seeded(1, "tokenizer"), torch.no_grad():
        f = models.encoder("resnet5_w64", size=16).eval().requires_grad_(False)
        words = Words(64, 16)
        # Less their mean, since maps of a random network are nearly alike.
        mean = f.maps(pictures(64, seed=9).views[0])[-1].mean((0, 2, 3))
        words.layer.bias.copy_(-words.layer.weight @ mean)
    return types.SimpleNamespace(encoder=f, size=16, parts={"words": words.state_dict()})


def pictures(count: int, side: int = 16, seed: int = 0, views: int = 2) -> Batch:
    """Blurred noise, and as a second view, if two are asked for, a lighter, noisier and flipped one.

    Of more views, the others are these two with noise of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    first = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    noise = 0.1 * torch.randn(first.shape, generator=generator)
    second = (0.9 * first.flip(3) + 0.1 + noise).clamp(0, 1)
    made = [first, second]
    while len(made) < views:
        made.append((made[-2] + 0.1 * torch.randn(first.shape, generator=generator)).clamp(0, 1))
    return Batch(made[:views], torch.arange(count), torch.arange(count) % 3)


def rows(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    """Rows of length 1, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def loops(name: str) -> Callable[..., torch.Tensor]:
    """The equation of a method as the plain loops in its docstring, where readers see them."""
    text = sys.modules[methods.method(name).__module__].__doc__ or ""
    found = re.search(r"^    def .*\n(?:(?:    .*)?\n)*", text, re.MULTILINE)
    assert found, f"{name} has no loops"
    names: dict[str, Any] = {"dot": torch.dot, "stop": torch.Tensor.detach, "pi": math.pi}
    for word in ("exp", "log", "sqrt", "cos", "sin"):
        names[word] = functools.partial(_of_either, word)
    exec(textwrap.dedent(found[0]), names)
    return names["loss"]


def _of_either(word: str, x: Any) -> Any:
    """A function of torch for tensors, and of math for numbers."""
    return getattr(torch if isinstance(x, torch.Tensor) else math, word)(x)


def total(found: Loss) -> torch.Tensor:
    """The loss: the sum of its terms."""
    return found.total


def given(module: Method, count: int, **words: int) -> Batch:
    """As many pictures, in as many views as a method takes, with a teacher's vectors if it wants them."""
    batch = pictures(count, views=len(module.views(Views())), **words)
    if "targets" in module.requires(module.config):
        f, usual = teacher().encoder, pictures(64, seed=9).views[0]
        # Less their mean, since vectors of a random network are nearly alike.
        batch = dataclasses.replace(batch, targets=f(batch.views[0]) - f(usual).mean(0))
    return batch
