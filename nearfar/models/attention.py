"""Attention for training in bfloat16 on a CPU, where torch's fused kernel is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LONGEST = 384  # tokens up to which writing all weights of attention down was faster where it was measured


class PlainAttention(TorchFunctionMode):
    """A context in which attention that is trained under autocast on a CPU is computed step by step.

    Forward and backward of torch's fused kernel take 3 to 4 times as long there with 16 or 64 tokens and 1.7
    times with 257 (one core of a Xeon with AMX; benchmarks/attention.py). It holds for networks of all
    libraries that call `scaled_dot_product_attention`. What needs no gradient, has more than LONGEST tokens,
    drops weights or masks by other than bool is left to torch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute attention step by step where that is faster; do what was asked for otherwise."""
        if func is F.scaled_dot_product_attention:
            found = _attention(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Compute attention with all its weights in memory, or give None where torch is to do it."""
    tokens, others, dim = query.shape[-2], key.shape[-2], query.shape[-1]
    asked = (query, key, value)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in asked)
    if not learns or query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return None
    if max(tokens, others) > LONGEST or query.dim() != 4 or key.shape[:2] != query.shape[:2]:
        return None
    if dropout_p or enable_gqa:
        return None
    if is_causal:
        attn_mask = torch.ones(tokens, others, dtype=torch.bool).tril()
    # A token that sees none has weights that torch defines; here they would be equal.
    if attn_mask is not None and (attn_mask.dtype != torch.bool or not attn_mask.any(-1).all()):
        return None
    q, k, v = (x.to(torch.bfloat16).flatten(0, 1) for x in asked)
    with torch.autocast("cpu", enabled=False):  # it would hold the weights in float32, at twice the time
        scale = dim**-0.5 if scale is None else scale
        weights = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
        weights = weights.unflatten(0, query.shape[:2])
        if attn_mask is not None:
            weights = weights.masked_fill(~attn_mask, torch.finfo(weights.dtype).min)
        y: Tensor = torch.bmm(weights.softmax(-1).flatten(0, 1), v)
    return y.unflatten(0, query.shape[:2])
