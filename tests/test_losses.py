"""The streaming losses against the plain loops of SimCLR's docstring."""

import math
import textwrap

import processes
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.methods import simclr


def slow():
    """Take the loops out of the docstring, where readers see them."""
    text = simclr.__doc__
    code = textwrap.dedent(text[text.index("    def loss") :])
    names = {"exp": torch.exp, "log": torch.log, "dot": torch.dot}
    exec(code, names)
    return names["loss"]


def rows(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1) for _ in range(2)]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 7), d=st.integers(1, 5), tile=st.integers(1, 16), tau=st.floats(0.01, 5.0))
def test_loss_and_gradients_equal_the_loops_of_the_docstring(n, d, tile, tau):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_tile", lambda z: tile)
        z_i, z_j = (z.requires_grad_() for z in rows(n, d, seed=n * 7 + d))
        t = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
        fast = losses.nt_xent(z_i, z_j, t)
        found = torch.autograd.grad(fast, (z_i, z_j, t))
    truth = slow()(torch.cat([z_i, z_j]), t)
    wanted = torch.autograd.grad(truth, (z_i, z_j, t))
    torch.testing.assert_close((fast, *found[:2]), (truth, *wanted[:2]), rtol=1e-11, atol=1e-12)
    # The loops' own rounding in d loss / d tau grows as 1 / tau^2.
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-11, atol=1e-12 * max(1.0, 1e-3 / tau**2))


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(losses, "_tile", lambda z: 3)
    z_i, z_j = (z.requires_grad_() for z in rows(4, 3))
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(losses.nt_xent, (z_i, z_j, tau))


def test_float32_stays_finite_and_right_at_a_low_temperature():
    z_i, z_j = rows(64, 16, dtype=torch.float32)
    z_j = F.normalize(z_j - 10 * z_i, dim=1)  # partners look away: exp(-2 / tau) would underflow
    for tau in (0.01, 0.03, 0.1):
        a, b = z_i.clone().requires_grad_(), z_j.clone().requires_grad_()
        loss = losses.nt_xent(a, b, tau)
        loss.backward()
        truth = slow()(torch.cat([z_i, z_j]).double(), tau)
        assert loss.dtype == torch.float32 and torch.isfinite(a.grad).all()
        assert abs(loss.item() / truth.item() - 1) < 1e-5
    apart = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert losses.nt_xent(*apart, 0.01).item() == 0.0  # one pair has no negatives


def test_bfloat16_and_autocast_do_not_touch_the_loss():
    z_i, z_j = (z.bfloat16() for z in rows(32, 16))
    plain = losses.nt_xent(z_i.float(), z_j.float(), 0.2)
    a = z_i.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.nt_xent(a, z_j, 0.2)
        loss.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, plain)
    assert a.grad.dtype == torch.bfloat16
    assert losses.unit(z_i).dtype == torch.float32
    torch.testing.assert_close(losses.unit(z_i).norm(dim=1), torch.ones(32))


def test_memory_grows_with_the_batch_and_not_with_its_square():
    n, d = 2048, 16
    z_i, z_j = (z.float().requires_grad_() for z in rows(n, d))
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        losses.nt_xent(z_i, z_j, 0.2).backward()
    # the profiler counts each allocation of an operation; none may come near the 2n x 2n matrix
    events = [event for event in profile.events() if event.cpu_memory_usage > 0]
    assert events
    assert max(event.cpu_memory_usage for event in events) <= 2 * 512 * 512 * 4 < (2 * n) ** 2 * 4 / 10


def test_accuracy_counts_views_whose_partner_is_nearest(monkeypatch):
    monkeypatch.setattr(losses, "_tile", lambda z: 3)
    z_i, z_j = rows(9, 4)
    z_j = F.normalize(z_j + 0.7 * z_i, dim=1)
    z = torch.cat([z_i, z_j])
    similarity = (z @ z.T).fill_diagonal_(-math.inf)
    wanted = (similarity.argmax(1) == torch.arange(18).roll(9)).double().mean().item()
    assert 0 < wanted < 1
    assert losses.contrastive_accuracy(z_i, z_j).item() == pytest.approx(wanted)
    assert losses.contrastive_accuracy(z_i, z_i).item() == 1.0


def test_two_processes_give_the_loss_and_gradient_of_one():
    one, two = processes.one("nt_xent"), processes.two("nt_xent")
    for name in ("z_i", "z_j"):
        joined = torch.cat([part[name] for part in two])
        torch.testing.assert_close(joined, one[name], rtol=0, atol=1e-14)
    for name in ("loss", "tau"):
        mean = torch.stack([part[name] for part in two]).mean(0)
        torch.testing.assert_close(mean, one[name], rtol=0, atol=1e-13)
    assert one["accuracy"] == two[0]["accuracy"] == two[1]["accuracy"]
