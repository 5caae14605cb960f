"""A batch that is cut among threads: the same gradient, and the same bytes again, whatever runs beside."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from interrupted import pretrain_until
from small import IMAGE_METHODS, given, small, total
from torch import nn

import nearfar
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.data.batch import Batch
from nearfar.methods.base import Loss, Method
from nearfar.models.queue import Queue
from nearfar.training import engine, grad_cache, optim
from nearfar.training.draws import ThreadDraws, named_draws
from nearfar.training.replicas import Replicas, why_whole
from nearfar.training.schedule import StepPlan
from nearfar.training.settings import Training

CPU = torch.device("cpu")


def norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", IMAGE_METHODS)
@pytest.mark.parametrize(("threads", "chunk"), [(3, None), (2, 4)])
def test_every_method_has_the_gradient_of_the_whole_batch_but_for_batch_norm(
    name: str, threads: int, chunk: int | None
) -> None:
    module = small(name).double()
    for part in norms(module):
        part.training = False
    batch = given(module, 10)
    batch.views[:] = [view.double() for view in batch.views]
    loss = total(module(batch))
    loss.backward()
    wanted = {key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    replicas = Replicas(module, threads)
    found = grad_cache.backward(replicas, batch, chunk, nullcontext)
    torch.testing.assert_close(total(found), loss.detach())
    assert wanted.keys() == {key for key, p in module.named_parameters() if p.grad is not None}
    for key, p in module.named_parameters():
        if key in wanted:
            torch.testing.assert_close(p.grad, wanted[key], rtol=1e-9, atol=1e-11, msg=key)
    assert all(p.grad is None for other in replicas.modules[1:] for p in other.parameters())
    replicas.close()


@contextmanager
def busy() -> Iterator[None]:
    """Keep a core busy meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


class Feed:
    """The same three batches."""

    waited = 0.0

    def __init__(self, module: Method, count: int = 18) -> None:
        self.module, self.count = module, count

    def __iter__(self) -> Iterator[Batch]:
        for step in range(3):
            made = given(self.module, self.count, seed=step)
            yield Batch(made.views, made.rows, made.labels, step)


def trained(name: str, threads: int, *, norm: bool = True, drop: float = 0.0, kind: str = "muon") -> Method:
    """Train for three steps."""
    module = small(name)
    if not norm:
        for key, part in list(module.named_modules()):
            if part in norms(module):
                module.set_submodule(key, nn.GroupNorm(4, part.num_features))
    if drop:
        module.f.net = nn.Sequential(module.f.net, nn.Dropout(drop))
    maker = optim.optimizer(Training(optimizer=kind, lr=1e-3), module)
    how = {"plan": StepPlan(((0, 3),)), "lr": 1e-3, "warmup": 0.0, "device": CPU, "threads": threads}
    module.losses = [step.loss.item() for step in engine.train(module, Feed(module), maker, **how)]
    return module


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "dino"])
def test_threads_give_the_same_bytes_again_beside_a_busy_process(name: str) -> None:
    one = trained(name, 2, drop=0.2)
    with busy():
        two = trained(name, 2, drop=0.2)
    assert one.losses == two.losses
    for (key, value), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    assert trained(name, 3, drop=0.2).losses != one.losses  # each share has its draws and its batch norm


def test_without_batch_norm_threads_change_nothing_but_rounding() -> None:
    with busy():
        several = trained("simclr", 3, norm=False, kind="sgd")
    whole = trained("simclr", 1, norm=False, kind="sgd")
    assert several.losses == pytest.approx(whole.losses, rel=1e-5)
    for mine, other in zip(several.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_running_statistics_are_the_mean_of_the_shares() -> None:
    module = small("simclr").double()
    batch = given(module, 8)
    batch.views[:] = [view.double() for view in batch.views]
    apart = [copy.deepcopy(module) for _ in range(2)]
    for part, rows in zip(apart, (slice(4), slice(4, 8)), strict=True):
        part.embed(batch.part(rows))
    grad_cache.backward(Replicas(module, 2), batch, None, nullcontext)
    for key, value in module.named_buffers():
        one, two = (part.get_buffer(key) for part in apart)
        torch.testing.assert_close(value, (one + two) / 2 if value.is_floating_point() else one)


def test_copies_share_weights_and_queues_and_nothing_else() -> None:
    module = small("moco")
    other = Replicas(module, 2).modules[1]
    for (key, mine), theirs in zip(module.named_parameters(), other.parameters(), strict=True):
        assert mine is not theirs and mine.data_ptr() == theirs.data_ptr(), key
        assert mine.requires_grad == theirs.requires_grad
    assert other.queue is module.queue
    for key, buffer in module.named_buffers():
        if not key.startswith("queue."):
            assert other.get_buffer(key).data_ptr() != buffer.data_ptr(), key


def test_a_share_draws_what_a_process_of_its_number_would() -> None:
    def draw() -> list[torch.Tensor]:
        return [torch.rand(3), nn.functional.dropout(torch.ones(40)), torch.randn(5), torch.randperm(9)]

    before = torch.get_rng_state()
    with ThreadDraws(7, 0, "x"):
        mine = draw()
    with named_draws(7, "x", device=CPU):
        theirs = draw()
    with ThreadDraws(7, 1, "x"):
        assert not torch.equal(draw()[0], mine[0])
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_number_of_threads_is_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        replicas = Replicas(small("simclr"), 3)
        with replicas.step():
            assert replicas.run(lambda number: (number, torch.get_num_threads())) == [(0, 1), (1, 1), (2, 1)]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            replicas.run(lambda number: 1 // (1 - number))
        replicas.close()
    finally:
        torch.set_num_threads(before)


def test_several_processes_with_threads_give_what_one_with_more_threads_gives() -> None:
    one, two = processes.one("replicas"), processes.two("replicas")
    for key, value in one.items():
        torch.testing.assert_close(two[0][key], value, rtol=0, atol=1e-11, msg=key)
        assert torch.equal(two[0][key], two[1][key]), key


class Whole(Method):
    """A method that is written in one piece."""

    def forward(self, batch: Batch) -> Loss:
        return Loss({"size": self.f(batch.views[0]).square().mean()})


def test_what_cannot_be_cut_says_why() -> None:
    module = small("simclr")
    assert why_whole(module) == ""
    assert why_whole(Whole(module.f, None)) == "Whole has no embed"
    nn.utils.weight_norm(module.g[0])
    module.g[0](torch.rand(2, module.f.dim))
    assert "cannot be copied" in why_whole(module)
    other = small("simclr")
    other.f.__dict__["_code"] = other.f.net
    assert why_whole(other) == "the network is compiled"


def test_a_queue_is_changed_by_no_forward_pass() -> None:
    module = small("moco")
    before = module.queue.rows.clone()
    module(given(module, 8))
    assert isinstance(module.queue, Queue) and torch.equal(module.queue.rows, before)


SMALL = {"encoder": "resnet10_w16", "precision": "float32", "health_checks": 0, "workers": 1, "device": "cpu"}


def content(run: Path) -> bytes:
    return (run / "encoder.safetensors").read_bytes()


def test_a_run_keeps_its_number_of_threads_and_resumes_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    words = {"steps": 4, "batch_size": 32, "head": (16, 8), **SMALL}
    run = nearfar.pretrain(pixels, out=tmp_path / "one", threads=2, **words)
    assert run.config["training"]["threads"] == 2
    alone = nearfar.pretrain(pixels, out=tmp_path / "alone", **words)
    assert alone.config["training"]["threads"] == torch.get_num_threads() == 1  # as OMP_NUM_THREADS says
    assert content(tmp_path / "alone") != content(tmp_path / "one")

    pretrain_until(3, pixels, out=tmp_path / "cut", threads=2, **words)
    with pytest.raises(NearfarError, match="--threads 2 became 1"):
        nearfar.pretrain(pixels, out=tmp_path / "cut", threads=1, **words)
    nearfar.pretrain(pixels, out=tmp_path / "cut", **words)  # with as many as before
    assert content(tmp_path / "cut") == content(tmp_path / "one")
    again = nearfar.pretrain(pixels, out=tmp_path / "again", like=tmp_path / "one")
    assert content(again.path) == content(tmp_path / "one")
    capsys.readouterr()
    progress.show(True)
    try:
        nearfar.pretrain(pixels, out=tmp_path / "few", threads=8, **{**words, "batch_size": 40, "steps": 1})
    finally:
        progress.show(False)
    told = capsys.readouterr().err
    assert (
        "2 threads of 8 will train" in told
        and "at least 16 images" in told
        and "2 training thread(s)" in told
    )
