"""Attention step by step, as training in bfloat16 on a CPU computes it, beside torch's own in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nearfar import models
from nearfar.models.attention import LONGEST, PlainAttention
from nearfar.models.blocks import checkpoint_activations
from nearfar.training.engine import autocast

CPU = torch.device("cpu")


def parts(tokens: int = 9, others: int | None = None) -> list[torch.Tensor]:
    """Queries, keys and values of two examples with three heads, in numbers that bfloat16 holds."""
    draw = torch.Generator().manual_seed(0)
    lengths = (tokens, others or tokens, others or tokens)
    made = [torch.randn(2, 3, length, 32, generator=draw).bfloat16().float() for length in lengths]
    return [x.requires_grad_() for x in made]


def attended(asked: list[torch.Tensor], **how: Any) -> list[torch.Tensor]:
    """The outcome of attention and the gradients of its inputs."""
    y = F.scaled_dot_product_attention(*asked, **how)
    pulled = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    return [y.detach().float(), *torch.autograd.grad(y, asked, pulled)]


MASK = torch.rand(2, 1, 1, 9, generator=torch.Generator().manual_seed(1)) < 0.6
MASK[..., 0] = True


@pytest.mark.parametrize(
    "how",
    [{}, {"is_causal": True}, {"attn_mask": MASK}, {"scale": 0.5}],
    ids=["all", "causal", "mask", "scale"],
)
def test_it_is_attention_with_its_gradients(how: dict[str, Any]) -> None:
    expected = attended(parts(), **how)
    with autocast(CPU, "bfloat16"):
        found = attended(parts(), **how)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm() / other.norm()) < 0.01
        assert not torch.equal(one, other)  # bfloat16's rounding shows that it was not torch's own


def test_keys_may_be_other_tokens() -> None:
    expected = attended(parts(4, 11))
    with autocast(CPU, "bfloat16"):
        found = attended(parts(4, 11))
    assert float((found[0] - expected[0]).norm() / expected[0].norm()) < 0.01


@pytest.mark.parametrize(
    ("tokens", "how"),
    [
        (LONGEST + 1, {}),
        (9, {"attn_mask": torch.zeros(9, 9)}),
        (9, {"attn_mask": torch.arange(9)[:, None] > torch.arange(9)}),  # the first token sees none
    ],
    ids=["long", "not bool", "sees none"],
)
def test_torch_computes_the_rest(tokens: int, how: dict[str, Any]) -> None:
    expected = attended(parts(tokens), **how)
    with PlainAttention():
        found = attended(parts(tokens), **how)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with PlainAttention(), torch.no_grad():
        y = F.scaled_dot_product_attention(*parts())
    assert torch.equal(y, F.scaled_dot_product_attention(*parts()))


def test_blocks_that_compute_again_in_the_backward_pass_do_it_the_same_way() -> None:
    found = []
    for again in (False, True):
        net = models.encoder("vit_w64_d2", size=16, seed=0).train()
        if again:
            checkpoint_activations(net)
        with autocast(CPU, "bfloat16"):
            loss = net(torch.linspace(0, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)).float().square().mean()
        loss.backward()
        found.append([p.grad for p in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def kernels(precision: str) -> set[str]:
    """The operations of a small transformer's training step."""
    net = models.encoder("vit_w64_d2", size=16, seed=0)
    with torch.profiler.profile() as seen:
        with autocast(CPU, precision):
            loss = net(torch.rand(2, 3, 16, 16)).float().square().mean()
        loss.backward()
    return {event.key for event in seen.key_averages()}


def test_training_in_bfloat16_uses_it_and_training_in_float32_does_not() -> None:
    fused = "aten::scaled_dot_product_attention"
    assert fused in kernels("float32") and fused not in kernels("bfloat16")
