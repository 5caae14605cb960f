"""Continues from given weights without wrecking them: which of the encoder's weights change, and how fast.

A method's heads start from random weights, and their first gradients would spoil an encoder that is good
already. So the heads learn alone at first. Then the encoder learns too, at a share of the rate, which is
smaller in the layers near the image, and may be pulled towards the features that it began with. Batch norms
keep the statistics that its weights were made for.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core.errors import NearfarError
from ..models import Encoder, blocks
from .settings import Training

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
STARTED = {
    "head_warmup": 0.1,
    "encoder_rate": 0.1,
    "rate_decay": 0.8,
    "freeze_statistics": True,
    "early_size": 1.0,
}
"""Settings of a training that starts from weights, where nothing else is asked for."""
ON_CPU = {"batch_size": 64, "trainable": "last:2"}
"""Further ones, where a network as large as known encoders are is trained on a CPU."""
SIDES = (256, 224)
"""The largest side of its own at which an encoder is trained unasked, and that of those for larger images."""
NEED_START = ("start_pull", "freeze_statistics")
"""Further settings that are only for such a training."""
_WAYS = re.compile(r"all|none|norms|(?:last|lora):([1-9]\d{0,3})")


class LowRank(nn.Module):
    """A matrix or a kernel, plus a product of two small matrices, which begins as zero: W + B A.

    Source:
        Hu et al. 2022, "LoRA: Low-rank adaptation of large language models", section 4.1.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        """Make A and B.

        Args:
            weight: (rows, ...), of which the rest is taken as one dimension.
            rank: rows of A and columns of B.
        """
        super().__init__()
        rows, rest = weight.flatten(1).shape
        rank = min(rank, rows, rest)
        self.a = nn.Parameter(torch.randn(rank, rest) / rest**0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Give the sum, in the form of the weight."""
        return weight + (self.b @ self.a).view_as(weight)


def choose(f: Encoder, what: str, *, others: bool = False) -> None:
    """Say which of an encoder's weights are trained, in place.

    Args:
        f: the encoder.
        what: "all"; "norms", those of its normalisations; "last:K", those from the K-th last block on; or
            "lora:R", additions of rank R to its linear layers and dense convolutions; or "none", where
            another encoder is trained.
        others: whether the method trains another encoder.

    Raises:
        NearfarError: it is none of these, or nothing would be trained.
    """
    found = _WAYS.fullmatch(what)
    if found is None:
        raise NearfarError(
            f"--trainable is {what!r}; write all, none, norms, last:K or lora:R, such as last:2."
        )
    if what == "all":
        return
    if what == "none":
        if not others:
            raise NearfarError(
                "--trainable none leaves nothing to learn; it is for methods with captions (--method siglip)."
            )
        f.requires_grad_(False)
        return
    number = int(found[1] or 0)
    parts = dict(f.named_modules())
    for part in parts.values():
        for weight in part.parameters(recurse=False):
            weight.requires_grad_(what == "norms" and isinstance(part, NORMS))
    if what.startswith("lora"):
        for part in parts.values():
            if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1):
                parametrize.register_parametrization(part, "weight", LowRank(part.weight, number))
    elif what.startswith("last"):
        depth = layers(f)
        inside = [weight for block in blocks(f) for weight in block.parameters()]
        names = {id(weight): name for name, weight in f.named_parameters()}
        places = {depth[names[id(weight)]] for weight in inside}
        # A network without blocks has layers in a row, or parts that are not in a list.
        places = places or {at for name, at in depth.items() if re.search(r"\.\d+\.", name)}
        stack = sorted(places or set(depth.values()))
        first = stack[-min(number, len(stack))]
        for name, weight in f.named_parameters():
            weight.requires_grad_(depth[name] >= first)
    if not any(weight.requires_grad for weight in f.parameters()):
        raise NearfarError(f"--trainable {what} finds nothing to train in {f.name}; use --trainable last:1.")


def merged(f: Encoder) -> Encoder:
    """Give an encoder whose low-rank additions are part of its weights: a copy, if it has any.

    Args:
        f: left as it is.
    """
    if not any(parametrize.is_parametrized(part) for part in f.modules()):
        return f
    made = copy.deepcopy(f)
    for part in list(made.modules()):
        if parametrize.is_parametrized(part):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    return made


def layers(f: nn.Module) -> dict[str, int]:
    """Number an encoder's layers from the image on: a block of a stack is one, and what stands between two.

    Args:
        f: the encoder.

    Returns:
        By name of a parameter, as `f` names it, the number of its layer.
    """
    names = {id(part): name for name, part in f.named_modules()}
    stacked = [names[id(block)].removeprefix("net.") for block in blocks(f)]
    held = Counter(name.split(".")[0] for name in stacked)
    numbers: dict[str, int] = {}
    found = {}
    for name, _ in f.named_parameters():
        path = name.removeprefix("net.")
        first, *rest = path.split(".")
        key = f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first
        if key == first and 2 * held[first] > len(stacked):  # a part that holds the stack, such as "encoder"
            own = next((block for block in stacked if path.startswith(f"{block}.")), "")
            key = own or ".".join([first, *rest[:1]])
        found[name] = numbers.setdefault(key, len(numbers))
    return found


def rates(f: nn.Module, training: Training) -> dict[str, float]:
    """Give each of an encoder's parameters its share of the learning rate.

    Args:
        f: the encoder.
        training: the settings.

    Returns:
        By name, as `f` names it: `encoder_rate`, times `rate_decay` for each layer that follows.

    Source:
        Howard and Ruder 2018, "Universal language model fine-tuning for text classification", section 3.2.
    """
    depth = layers(f)
    last = max(depth.values(), default=0)
    return {name: training.encoder_rate * training.rate_decay ** (last - at) for name, at in depth.items()}


class StartPull:
    """Pulls an encoder's features towards those of the encoder that it was, of the same views.

    The loss gets weight * left * the mean over images of the sum over their views of 1 - cos(h, start's h).
    Its gradient joins that of h as it comes back to the encoder, however the batch is cut.

    Source:
        Li et al. 2019, "DELTA: Deep learning transfer using feature map with attention for convolutional
        networks", section 3.1, of the last features alone; that it fades is ours.
    """

    def __init__(self, f: Encoder, weight: float, images: int) -> None:
        """Copy the encoder and follow its calls.

        Args:
            f: the encoder, with the weights that it starts from.
            weight: of the pull at the beginning.
            images: of a batch, in this process.
        """
        self.weight, self.images = weight, images
        self.left = 1.0  # share of the pull that has not faded; the training loop lowers it
        self.acts = False  # whether the method has asked for features that learn
        start = copy.deepcopy(f).requires_grad_(False).eval()

        # A plain function: a copy of the encoder, as for each thread, shares it and the start.
        def pulled(f: nn.Module, inputs: tuple[Any, ...], h: Tensor) -> Tensor:
            if not (torch.is_grad_enabled() and h.requires_grad):
                return h
            self.acts = True
            with torch.no_grad():
                there = start(*inputs)
            found: Tensor = _Pulled.apply(h, there, self.weight * self.left / self.images)
            return found

        f.register_forward_hook(pulled)


class _Pulled(torch.autograd.Function):
    """Features as they are, to whose gradient that of a distance to others is added."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, there: Tensor, weight: float) -> Tensor:
        ctx.save_for_backward(h, there)
        ctx.weight = weight
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        h, there = ctx.saved_tensors
        with torch.enable_grad(), torch.autocast(h.device.type, enabled=False):
            here = h.detach().float().requires_grad_()
            apart = ctx.weight * (1 - F.cosine_similarity(here, there.float())).sum()
            (pull,) = torch.autograd.grad(apart, here)
        return grad + pull.to(grad.dtype), None, None
