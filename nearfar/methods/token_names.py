"""What methods share that name the tokens of a text, such as masked language modelling, and name texts by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed
from .base import Expects, Loss, Method


def scores(y: Tensor, table: nn.Embedding, bias: Tensor) -> Tensor:
    """Give every token of the vocabulary a number in each place, by the table of tokens once more.

    Args:
        y: (n, k, d).
        table: V tokens of d numbers.
        bias: (V,).

    Returns:
        (n, k, V).
    """
    return y @ table.weight.T * y.shape[2] ** -0.5 + bias


def naming_loss(y: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare what was named with the tokens: the mean cross-entropy over the tokens of all processes.

    Args:
        y: (n, k, V), a number for each token of the vocabulary in each place.
        target: (n, k) int64, the tokens, -1 for none.

    Returns:
        The loss, and what `share_named` is computed from.
    """
    kind = torch.promote_types(y.dtype, torch.float32)
    known = target >= 0
    sums = F.cross_entropy(y.flatten(0, 1).to(kind), target.flatten(), ignore_index=-1, reduction="sum")
    count = collectives.total(known.sum().to(kind)).clamp(min=1)
    right = ((y.argmax(2) == target) & known).sum()
    return sums * distributed.world() / count, {"right": right, "count": known.sum()}


def share_named(watched: Mapping[str, Tensor]) -> Tensor:
    """Tell which share of the tokens was named."""
    right, count = (collectives.total(watched[name].float()) for name in ("right", "count"))
    return right / count.clamp(min=1)


class NamesTokens(Method):
    """A method whose loss is the mean cross-entropy of the tokens that it names."""

    @classmethod
    def expects(cls, config: Any) -> Expects:
        """Judge by the tokens named on held-out texts; views need not be near each other."""
        return Expects(task="tokens_named", at_chance="train longer, or raise --lr")

    def loss(self, y: Tensor, target: Tensor) -> Loss:
        """Compare what was named, (N, K, V), with the tokens (N, K), -1 for none."""
        found, watched = naming_loss(y, target)
        return Loss({"cross_entropy": found}, watched)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the tokens was named."""
        return {"tokens_named": share_named(watched)}


def numbers(ids: Tensor) -> Tensor:
    """Number texts: equal ones have equal numbers, and others, but for a chance of 2^-64, have not.

    Args:
        ids: (n, t) int64 tokens, 0 after the end.

    Returns:
        (n,) int64.
    """
    place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    mixed = (ids * 0x2545F4914F6CDD1D) ^ (place * 0x1B873593CC9E2D51)  # int64 wraps around
    mixed = (mixed ^ (mixed >> 29)) * 0x369DEA0F31A53F85
    return torch.where(ids != 0, mixed ^ (mixed >> 32), 0).sum(1)
