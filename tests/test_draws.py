"""What a network or a method draws inside a step is named by the seed and the step."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import pretrain_until
from torch import nn

import nearfar
from nearfar.core import rng
from nearfar.data.batch import Batch, leaves, tree_map
from nearfar.methods.base import Loss, Method
from nearfar.training import engine, grad_cache
from nearfar.training.draws import named_draws
from nearfar.training.replicas import Replicas
from nearfar.training.schedule import StepPlan

CPU = torch.device("cpu")


class Dropping(nn.Module):
    """An encoder that draws at every call."""

    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Noisy(Method):
    """Adds to each example noise of its own, and compares the examples. Its view is a tree."""

    def embed(self, batch: Batch) -> tuple[torch.Tensor]:
        noise = rng.uniform(batch.key, batch.rows, 12)
        x = batch.views[0]["x"].flatten(1) + torch.from_numpy(noise).to(batch.views[0]["x"].dtype)
        return (self.f(x),)

    def loss(self, z: torch.Tensor) -> Loss:
        return Loss({"spread": (z - z.mean(0)).square().mean()}, {"z": z})


def noisy() -> Noisy:
    torch.manual_seed(0)
    return Noisy(Dropping(), None).double()  # type: ignore[arg-type]


def tree(key: int = 3) -> Batch:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(10, 3, 2, 2, generator=draw, dtype=torch.float64)
    return Batch([{"x": x, "more": (x + 1, [x + 2])}], torch.arange(10) * 7, torch.arange(10), key)


def test_a_batch_is_a_tree_that_can_be_cut_and_moved() -> None:
    batch = tree()
    part = batch.part(slice(4, 7))
    assert len(batch) == 10 and len(part) == 3 and part.key == batch.key
    assert part.rows.tolist() == [28, 35, 42] and part.labels.tolist() == [4, 5, 6]
    for whole, piece, number in zip(leaves(batch.views), leaves(part.views), range(3), strict=True):
        assert torch.equal(piece, whole[4:7]) and torch.equal(whole, batch.views[0]["x"] + number)
    there = batch.to("meta")
    assert {x.device.type for x in (*leaves(there.views), there.labels)} == {"meta"}
    assert there.rows.device == CPU and Batch([], torch.arange(2)).to("meta").labels is None
    assert tree_map(lambda x: x.shape[0], batch.views) == [{"x": 10, "more": (10, [10])}]


def test_draws_have_names_and_leave_torchs_generator_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = []
    for key, names in ((1, ()), (1, ()), (2, ()), (1, ("embed", 4))):
        with named_draws(key, *names, device=CPU):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert len({tuple(x.tolist()) for x in drawn}) == 3
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), named_draws(1, device=CPU):
        _ = 1 / 0
    assert torch.equal(torch.get_rng_state(), before)


def test_both_passes_of_a_batch_in_pieces_draw_the_same() -> None:
    module, batch = noisy(), tree()
    found = grad_cache.backward(Replicas(module, 1), batch, 4, nullcontext)
    mine = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    z = []
    for part in grad_cache.pieces(slice(0, len(batch)), 4):
        with named_draws(batch.key, "embed", part.start, device=CPU):
            z += module.embed(batch.part(part))
    module.loss(torch.cat(z)).total.backward()
    assert torch.equal(found.watched["z"], torch.cat(z).detach())
    for grad, p in zip(mine, module.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_step_does_not_depend_on_those_before(chunk: int | None) -> None:
    class Feed:
        waited = 0.0

        def __init__(self, *keys: int) -> None:
            self.keys = keys

        def __iter__(self):
            return (tree(key) for key in self.keys)

    def losses(*keys: int) -> list[float]:
        module = noisy()
        maker = torch.optim.SGD(module.parameters(), 0.0)
        plan = StepPlan(((0, len(keys)),))
        how = {"plan": plan, "lr": 0.0, "warmup": 0.0, "device": CPU, "chunk": chunk}
        torch.rand(len(keys))
        return [step.loss.item() for step in engine.train(module, Feed(*keys), maker, **how)]

    long, short = losses(1, 2, 3), losses(3)
    assert long[2] == short[0] and len(set(long)) == 3


def content(run: Path) -> bytes:
    return (run / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_network_with_stochastic_depth_gives_the_same_bytes_again_and_after_a_kill(
    micro_batch: int | None, tmp_path: Path
) -> None:
    pytest.importorskip("torchvision")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    words = {"steps": 3, "batch_size": 8, "encoder": "efficientnet_b0", "head": (16, 8), "workers": 1}
    words |= {"precision": "float32", "micro_batch": micro_batch, "device": "cpu", "health_checks": 0}
    words |= {"optimizer": "sgd", "colour": "change"}  # quick ones: it has eighty layers
    torch.manual_seed(1)
    nearfar.pretrain(pixels, out=tmp_path / "one", **words)
    torch.manual_seed(2)
    nearfar.pretrain(pixels, out=tmp_path / "two", **words)
    assert content(tmp_path / "one") == content(tmp_path / "two")

    pretrain_until(2, pixels, out=tmp_path / "cut", **words)
    nearfar.pretrain(pixels, out=tmp_path / "cut", **words)
    assert content(tmp_path / "cut") == content(tmp_path / "one")
