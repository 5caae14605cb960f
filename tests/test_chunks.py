"""A batch cut into chunks has the gradient of the whole batch."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nearfar.methods.base import Batch
from nearfar.methods.simclr import Config, SimCLR
from nearfar.training import grad_cache
from nearfar.training.adapting import StartPull
from nearfar.training.replicas import Replicas


class Flat(nn.Module):
    """An encoder without batch norm."""

    dim = 8

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8) if norm else nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def batch(n: int) -> Batch:
    draw = torch.Generator().manual_seed(3)
    views = [torch.rand(n, 3, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2)]
    return Batch(views, torch.arange(n))


def without_norm(method: SimCLR) -> SimCLR:
    for name, part in list(method.g.named_modules()):
        if isinstance(part, nn.BatchNorm1d):
            method.g.set_submodule(name, nn.Identity())
    return method


@pytest.mark.parametrize("chunk", [1, 4, 5, 16, 99])
def test_the_gradient_is_that_of_the_whole_batch(chunk):
    torch.manual_seed(0)
    method = without_norm(SimCLR(Flat(), Config())).double()  # type: ignore[arg-type]
    other = copy.deepcopy(method)
    found = grad_cache.backward(Replicas(method, 1), batch(16), chunk, nullcontext)
    loss = other(batch(16)).total
    loss.backward()
    assert found.terms["nt_xent"].item() == pytest.approx(loss.item(), rel=1e-13)
    for mine, theirs in zip(method.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=0, atol=1e-13)


def test_chunks_are_of_one_size_so_that_batch_norm_counts_over_no_rest():
    torch.manual_seed(0)
    method, seen = SimCLR(Flat(norm=True), Config()).double(), []  # type: ignore[arg-type]
    method.f.register_forward_hook(lambda _, inputs, h: seen.append(len(h) // 2))
    grad_cache.backward(Replicas(method, 1), batch(17), 4, nullcontext)
    assert seen == 2 * [3, 3, 4, 3, 4]  # in each pass; four times 4 and 1 before
    assert grad_cache.pieces(slice(5, 9), 4) == [slice(5, 9)]


def test_running_statistics_move_once_a_step_by_the_mean_over_the_chunks():
    torch.manual_seed(0)
    method = SimCLR(Flat(norm=True), Config()).double()  # type: ignore[arg-type]
    apart = []
    for part in grad_cache.pieces(slice(0, 16), 4):
        apart.append(copy.deepcopy(method))
        apart[-1].embed(batch(16).part(part))
    grad_cache.backward(Replicas(method, 1), batch(16), 4, nullcontext)
    for key, value in method.named_buffers():
        moved = torch.stack([other.get_buffer(key) for other in apart])
        torch.testing.assert_close(value, moved.mean(0) if value.is_floating_point() else moved[0])


def test_running_statistics_of_one_chunk_are_those_of_the_batch():
    torch.manual_seed(0)
    method = SimCLR(Flat(norm=True), Config()).double()  # type: ignore[arg-type]
    other = copy.deepcopy(method)
    grad_cache.backward(Replicas(method, 1), batch(16), 16, nullcontext)
    other(batch(16))
    for (name, mine), theirs in zip(method.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(mine, theirs), name


def test_a_pull_is_part_of_the_loss_however_the_batch_is_cut() -> None:
    torch.manual_seed(0)
    method = without_norm(SimCLR(Flat(), Config())).double()  # type: ignore[arg-type]
    start = copy.deepcopy(method.f)
    plain = copy.deepcopy(method)
    pull = StartPull(method.f, weight=0.5, images=16)
    with torch.no_grad():  # as if training had gone on for a while
        for own, same in zip(method.parameters(), plain.parameters(), strict=True):
            own += 0.3 * torch.randn_like(own)
            same.copy_(own)
    pull.left = 0.25
    apart = sum((1 - F.cosine_similarity(plain.f(x), start(x))).sum() for x in batch(16).views) / 16
    (plain(batch(16)).total + 0.5 * 0.25 * apart).backward()
    for chunk, threads in ((None, 1), (4, 1), (None, 2), (None, 0)):
        method.zero_grad()
        if threads:
            grad_cache.backward(Replicas(method, threads), batch(16), chunk, nullcontext)
        else:
            method(batch(16)).total.backward()
        for mine, theirs in zip(method.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-8)  # cosines are float32's
