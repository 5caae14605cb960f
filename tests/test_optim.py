"""LARS against its equations as loops, the rules of the rate, and what is exempt from decay."""

import math

import forkserver
import numpy as np
import pytest
import torch
from torch import nn

from nearfar import models
from nearfar.core.config import build
from nearfar.training import optim
from nearfar.training.optim import muon
from nearfar.training.settings import Training


def slow_lars(w, gradients, rates, momentum, weight_decay, eta, adapt):
    """The equations of LARS, a number at a time."""
    w, v = [float(x) for x in w], [0.0] * len(w)
    for g, lr in zip(gradients, rates, strict=True):
        g = [gk + weight_decay * wk for gk, wk in zip(g, w, strict=True)]
        size, slope = math.sqrt(sum(x * x for x in w)), math.sqrt(sum(x * x for x in g))
        own = lr * eta * size / slope if adapt and size > 0 and slope > 0 else lr
        v = [momentum * vk + own * gk for vk, gk in zip(v, g, strict=True)]
        w = [wk - vk for wk, vk in zip(w, v, strict=True)]
    return w


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("start", ["random", "zero"])
def test_lars_follows_its_equations(adapt, start):
    rng = np.random.default_rng(0)
    first = rng.normal(size=6) if start == "random" else np.zeros(6)
    gradients = [rng.normal(size=6) for _ in range(5)] + [np.zeros(6)]
    rates = [0.1, 0.5, 2.0, 1.0, 0.3, 0.2]
    w = nn.Parameter(torch.tensor(first).view(2, 3))
    unused = nn.Parameter(torch.ones(1))
    lars = optim.LARS([w, unused], 0.1, momentum=0.9, weight_decay=0.01, eta=0.02, adapt=adapt)
    for g, lr in zip(gradients, rates, strict=True):
        lars.param_groups[0]["lr"] = lr
        w.grad = torch.tensor(g).view(2, 3)
        lars.step()
        assert torch.equal(w.grad, torch.tensor(g).view(2, 3))
    truth = slow_lars(first, gradients, rates, 0.9, 0.01, 0.02, adapt)
    np.testing.assert_allclose(w.detach().flatten().numpy(), truth, rtol=0, atol=1e-13)
    assert unused.item() == 1.0


def test_lars_goes_on_from_its_saved_state():
    def train(steps, state=None):
        w = nn.Parameter(torch.ones(3, 3) if state is None else state[0].clone())
        lars = optim.LARS([w], 0.5)
        if state is not None:
            lars.load_state_dict(state[1])
        for _ in range(steps):
            w.grad = w.detach().sin()
            lars.step()
        return w.detach(), lars.state_dict()

    assert torch.equal(train(6)[0], train(3, train(3))[0])


def test_biases_and_norms_are_exempt_and_frozen_tensors_left_out():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), models.mlp(8, 4, 2))
    decayed, exempt = optim.groups(module, 0.5)
    assert all(p.ndim > 1 for p in decayed["params"]) and len(decayed["params"]) == 3
    assert (decayed["weight_decay"], decayed["adapt"]) == (0.5, True)
    assert (exempt["weight_decay"], exempt["adapt"]) == (0.0, False)
    assert len(exempt["params"]) == 1 + 2 + 2 + 1  # the last norm's beta does not train


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_each_optimizer_lowers_a_loss(name):
    torch.manual_seed(0)
    module = models.mlp(4, 8, 2, last_norm=False)
    training = build(Training, {"optimizer": name, "lr": 0.05, "batch_size": 512, "lr_scaling": "linear"})
    maker = optim.optimizer(training, module)
    assert {group["lr"] for group in maker.param_groups} == {0.1}
    x = torch.rand(64, 4)
    losses = []
    for _ in range(30):
        loss = (module(x) - x[:, :2]).square().mean()
        maker.zero_grad()
        loss.backward()
        maker.step()
        losses.append(loss.item())
    # LARS moves a kernel by a ten-thousandth of its length a step at this rate, the biases as SGD does
    assert losses[-1] < (0.9 if name == "lars" else 0.3) * losses[0]


def test_rate_rules():
    def lr(rule):
        return optim.base_rate(build(Training, {"lr": 0.3, "lr_scaling": rule, "batch_size": 4096}))

    assert (lr("fixed"), lr("linear"), lr("sqrt")) == (0.3, pytest.approx(4.8), pytest.approx(19.2))


def test_the_rate_rises_straight_and_falls_along_a_cosine():
    assert [optim.factor(p, 0.2) for p in (0.0, 0.1, 0.2)] == [0.0, 0.5, 1.0]
    assert optim.factor(0.6, 0.2) == pytest.approx(0.5)
    assert optim.factor(1.0, 0.2) == pytest.approx(0.0)
    assert optim.factor(0.0, 0.0) == 1.0
    assert [optim.factor(p, 1.0) for p in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]
    falling = [optim.factor(0.2 + 0.8 * k / 50, 0.2) for k in range(51)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_directions(shape):
    u = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    made = optim.orthogonal(u).float()
    left, _, right = torch.linalg.svd(u, full_matrices=False)
    within = left.T @ made @ right.T  # diagonal where the singular vectors are kept
    assert within.diagonal().min() > 0.5 and within.diagonal().max() < 1.35
    assert (within - within.diagonal().diag()).abs().max() < 0.1


def test_muon_moves_matrices_orthogonally_and_the_rest_as_adam_does():
    draw = torch.Generator().manual_seed(1)
    w, b, other = (nn.Parameter(torch.randn(n, generator=draw)) for n in ((6, 4), (5,), (5,)))
    other.data.copy_(b.data)
    muon = optim.Muon(
        [{"params": [w], "weight_decay": 0.1}, {"params": [b], "adapt": False, "lr": 0.01}], 0.5, momentum=0.9
    )
    adam = torch.optim.Adam([other], 0.01)
    expected, buffer = w.detach().clone(), torch.zeros(6, 4)
    for _ in range(4):
        w.grad, b.grad = torch.randn(6, 4, generator=draw), torch.randn(5, generator=draw)
        other.grad = b.grad.clone()
        buffer = 0.9 * buffer + w.grad
        step = optim.orthogonal(w.grad + 0.9 * buffer).float()
        expected = expected * (1 - 0.5 * 0.1) - 0.5 * math.sqrt(6 / 4) * step
        muon.step()
        adam.step()
        torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(b.detach(), other.detach(), rtol=0, atol=1e-6)


def test_making_and_using_optimizers_leaves_the_compiler_alone():
    code = """
import sys, torch
from nearfar.training import optim
from nearfar.training.optim import muon
from nearfar.training.settings import Training
for name in ("muon", "lars", "sgd", "adamw"):
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    made = optim.optimizer(Training(optimizer=name, lr=0.1), layer)
    layer(torch.ones(1, 3)).sum().backward()
    optim.step(made, lambda tasks: [task() for task in tasks])
    assert not torch.equal(layer.weight, before)
    made.zero_grad(set_to_none=True)
    made.load_state_dict(made.state_dict())
print("torch._dynamo" in sys.modules, all(p.grad is None for p in layer.parameters()))
"""
    done = forkserver.run(code, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_torchvision_and_timm_are_imported_without_the_compiler_which_is_there_when_it_is_asked_for():
    code = """
import sys, torch
from nearfar.core.dynamo import import_without_compiler
import_without_compiler("timm")
import timm, torchvision.ops
print("torch._dynamo" in sys.modules)
boxes = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
torch.use_deterministic_algorithms(True)  # with which torchvision asks the compiler whether it may be used
print(tuple(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape))
print("_Later" in {type(module).__name__ for module in sys.modules.values()}, torch._dynamo.is_compiling())
"""
    done = forkserver.run(code, check=True)
    assert done.stdout.splitlines() == ["False", "(1, 1, 2, 2)", "False False"]


def test_the_compiler_is_imported_by_whoever_asks_for_it_while_torchvision_is():
    code = """
import sys
from nearfar.core import dynamo
for name in dynamo.COMPILER:
    sys.modules[name] = dynamo._Later(name)
from torch._dynamo import is_compiling
print(is_compiling(), {type(sys.modules[name]).__name__ for name in dynamo.COMPILER})
"""
    assert forkserver.run(code, check=True).stdout == "False {'module'}\n"


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_without_bfloat16_multiplies_in_float32(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    u = torch.randn(6, 20, generator=torch.Generator().manual_seed(2))
    exact = u.double() / u.double().norm()
    for _ in range(5):
        gram = exact @ exact.T
        exact = 3.4445 * exact + (-4.7750 * gram + 2.0315 * gram @ gram) @ exact
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: native)
    made = optim.orthogonal(u)
    assert made.dtype == (torch.bfloat16 if native else torch.float32)
    torch.testing.assert_close(made.double(), exact, rtol=0, atol=0.05 if native else 1e-5)
