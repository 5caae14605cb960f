"""The streaming losses against the plain loops of SimCLR's docstring."""

import math
import os

import forkserver
import processes
import pytest
import small
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.core.errors import NearfarError


def rows(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1) for _ in range(2)]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 7), d=st.integers(1, 5), tile=st.integers(1, 16), tau=st.floats(0.01, 5.0))
@example(n=3, d=1, tile=1, tau=0.03125)
def test_loss_and_gradients_equal_the_loops_of_the_docstring(n, d, tile, tau):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses.tiled, "side", lambda z: tile)
        z_i, z_j = (z.requires_grad_() for z in rows(n, d, seed=n * 7 + d))
        t = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
        fast = losses.nt_xent(z_i, z_j, t)
        found = torch.autograd.grad(fast, (z_i, z_j, t))
    truth = small.loops("simclr")(z_i, z_j, t)
    wanted = torch.autograd.grad(truth, (z_i, z_j, t))
    torch.testing.assert_close((fast, *found[:2]), (truth, *wanted[:2]), rtol=1e-11, atol=1e-12)
    # d loss / d tau sums up to 14 terms of size 1 / tau^2, which may cancel: what is left is their rounding.
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-11, atol=max(1e-12, 1e-14 / tau**2))


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(losses.tiled, "side", lambda z: 3)
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
        truth = small.loops("simclr")(z_i.double(), z_j.double(), tau)
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


@pytest.mark.parametrize("accuracy", [losses.contrastive_accuracy, losses.key_accuracy])
def test_accuracies_are_of_rows_that_belong_together(accuracy):
    rows = losses.unit(torch.randn(8, 4))
    for one, other in ((rows, rows[:5]), (rows, rows[:, :3]), (rows[:0], rows[:0]), (rows[None], rows[None])):
        with pytest.raises(NearfarError, match=r"give (the same shape|rows \(n, d\))\."):
            accuracy(one, other)


def test_accuracy_counts_views_whose_partner_is_nearest(monkeypatch):
    monkeypatch.setattr(losses.tiled, "side", lambda z: 3)
    z_i, z_j = rows(9, 4)
    z_j = F.normalize(z_j + 0.7 * z_i, dim=1)
    z = torch.cat([z_i, z_j])
    similarity = (z @ z.T).fill_diagonal_(-math.inf)
    wanted = (similarity.argmax(1) == torch.arange(18).roll(9)).double().mean().item()
    assert 0 < wanted < 1
    assert losses.contrastive_accuracy(z_i, z_j).item() == pytest.approx(wanted)
    assert losses.contrastive_accuracy(z_i, z_i).item() == 1.0


@pytest.mark.parametrize("many", [processes.two, processes.four])
def test_processes_give_the_losses_and_gradients_of_one(many):
    one, parts = processes.one("losses"), many("losses")
    for name, wanted in one.items():
        found = [part[name] for part in parts]
        # rows are joined; values, and what all processes share, average
        joined = torch.cat(found) if wanted.dim() else torch.stack(found).mean(0)
        torch.testing.assert_close(joined, wanted, rtol=1e-12, atol=1e-12)


def loops(name, a, b, tau, labels=None, queue=None):
    """Each loss as plain loops over its docstring's equation."""
    if name == "clip":
        return (loops("info_nce", a, b, tau) + loops("info_nce", b, a, tau)) / 2
    total, count = 0.0, 0
    if name in ("info_nce", "queue"):
        for i in range(len(a)):
            keys = [b[i], *queue] if name == "queue" else list(b)
            total += -torch.log(torch.exp(a[i] @ b[i] / tau) / sum(torch.exp(a[i] @ k / tau) for k in keys))
        return total / len(a)
    z = torch.cat([a, b])
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        friends = [k for k in others if labels[k] == labels[i]]
        if name == "dcl":
            others = [k for k in others if k not in friends]
        if friends:
            count += 1
            below = sum(torch.exp(z[i] @ z[k] / tau) for k in others)
            total += sum(-torch.log(torch.exp(z[i] @ z[p] / tau) / below) for p in friends) / len(friends)
    return total / max(count, 1)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["dcl", "supcon", "info_nce", "queue", "clip"]),
    n=st.integers(2, 6),
    d=st.integers(1, 4),
    tile=st.integers(1, 14),
    tau=st.floats(0.011, 4.0),
    wide=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_loss_equals_its_loops(name, n, d, tile, tau, wide, seed):
    generator = torch.Generator().manual_seed(seed)
    queue = losses.unit(torch.randn(5, d, generator=generator, dtype=torch.float64))
    labels = torch.randint(3, (2 * n,), generator=generator) * 7 - 5
    if name == "dcl":
        labels = torch.arange(n).repeat(2)
    compute = {
        "dcl": losses.dcl,
        "supcon": lambda a, b, t: losses.supcon(torch.cat([a, b]), labels, t),
        "info_nce": lambda a, b, t: losses.info_nce(a, b, None, t),
        "queue": lambda a, b, t: losses.info_nce(a, b, queue, t),
        "clip": lambda a, b, t: losses.clip(a, b, 1 / t),
    }[name]
    a, b = (z.requires_grad_() for z in rows(n, d, seed=seed))
    t = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses.tiled, "side", lambda z: tile)
        patch.setattr(losses.tiled, "WIDEST", 0.0 if wide else math.inf)
        fast = compute(a, b, t)
        found = torch.autograd.grad(fast, (a, b, t))
    truth = loops(name, a, b, t, labels, queue)
    if not isinstance(truth, torch.Tensor):  # no row has a friend
        assert fast == 0 and all((grad == 0).all() for grad in found)
        return
    wanted = torch.autograd.grad(truth, (a, b, t), allow_unused=True)
    torch.testing.assert_close(fast, truth, rtol=1e-11, atol=1e-12 * max(1, 1 / tau))
    torch.testing.assert_close(found[:2], wanted[:2], rtol=1e-10, atol=1e-12 * max(1, 1 / tau))
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-10, atol=1e-12 / tau**2 + 1e-12)


@pytest.mark.parametrize("tau", [0.4, 0.02])
@pytest.mark.parametrize("name", ["supcon", "dcl", "info_nce", "queue", "clip"])
def test_gradcheck_of_every_loss(name, tau, monkeypatch):
    monkeypatch.setattr(losses.tiled, "side", lambda z: 3)
    z_i, z_j = (z.requires_grad_() for z in rows(4, 3))
    queue = rows(5, 3, seed=2)[0]
    labels = torch.tensor([1, 2, 1, 1, 2, 0, 2, 2])
    t = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    compute = {
        "dcl": losses.dcl,
        "supcon": lambda a, b, t: losses.supcon(torch.cat([a, b]), labels, t),
        "info_nce": lambda a, b, t: losses.info_nce(a, b, None, t),
        "queue": lambda a, b, t: losses.info_nce(a, b, queue, t),
        "clip": lambda a, b, t: losses.clip(a, b, 1 / t),
    }[name]
    assert torch.autograd.gradcheck(compute, (z_i, z_j, t))


def test_supcon_with_a_label_an_image_is_nt_xent_and_takes_any_number_of_views():
    z_i, z_j = rows(6, 4)
    pair = losses.supcon(torch.cat([z_i, z_j]), torch.arange(6).repeat(2), 0.3)
    torch.testing.assert_close(pair, losses.nt_xent(z_i, z_j, 0.3), rtol=1e-13, atol=0)
    z = torch.cat([z_i, z_j, rows(6, 4, seed=5)[0]])
    labels = torch.arange(6).repeat(3)
    wanted = loops("supcon", z[:9], z[9:], torch.tensor(0.3), labels)
    torch.testing.assert_close(losses.supcon(z, labels, 0.3), wanted)


def test_supcon_of_a_single_row_asks_nothing_of_it():
    z = losses.unit(torch.randn(1, 4)).requires_grad_()
    tau = torch.tensor(0.1, requires_grad=True)
    loss = losses.supcon(z, torch.tensor([3]), tau)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(z.grad, torch.zeros(1, 4)) and not tau.grad


def test_every_loss_is_finite_and_right_in_float32_at_a_low_temperature():
    z_i, z_j = rows(64, 16)
    labels = torch.arange(64).repeat(2) % 9
    for compute in (
        losses.nt_xent,
        losses.dcl,
        lambda a, b, tau: losses.supcon(torch.cat([a, b]), labels, tau),
        lambda a, b, tau: losses.info_nce(a, b, None, tau),
        lambda a, b, tau: losses.info_nce(a, b, -a.detach(), tau),  # q . queue = -1 among them
        lambda a, b, tau: losses.clip(a, b, 1 / tau),
    ):
        a, b = z_i.float().requires_grad_(), (-z_i).float().requires_grad_()  # partners look away
        loss = compute(a, b, 0.01)
        loss.backward()
        truth = compute(z_i, -z_i, 0.01)
        assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()
        assert loss.item() == pytest.approx(truth.item(), rel=2e-6)


def test_what_does_not_fit_is_refused_in_a_sentence():
    z_i, z_j = rows(4, 3)
    for call, words in (
        (lambda: losses.nt_xent(z_i, z_j[:3], 0.1), "give the same shape"),
        (lambda: losses.nt_xent(2 * z_i, z_j, 0.1), "losses.unit\\(z_i\\)"),
        (lambda: losses.nt_xent(z_i, 0.97 * z_j, 0.1), "losses.unit\\(z_j\\)"),
        (lambda: losses.nt_xent(z_i, z_j, 0.0), "above 0"),
        (lambda: losses.clip(z_i, z_j, -1.0), "scale is -1.0"),
        (lambda: losses.supcon(z_i, torch.arange(3), 0.1), "one label per row"),
        (lambda: losses.info_nce(z_i, z_j, torch.ones(2, 5).double(), 0.1), "one width"),
        (lambda: losses.dcl(z_i[:1], z_j[:1], 0.1), "two images"),
        (lambda: losses.nt_xent(z_i[0], z_j[0], 0.1), "rows"),
    ):
        with pytest.raises(NearfarError, match=words):
            call()
    assert losses.nt_xent(1.01 * z_i, 0.99 * z_j, 0.1).isfinite()  # as far as bfloat16 rounds lengths


FUSED = """
import torch
from nearfar.losses import triton_kernels, tiled, unit

torch.manual_seed(0)
for n, m, d, first in ((37, 111, 5, 37), (70, 70, 20, 0), (64, 128, 128, 64)):
    z, scale = unit(torch.randn(m, d)), torch.tensor(9.0)
    own = range(first, first + n)
    if n % 2:
        own, z = range(0, 36), z[:108]
    grads = torch.randn(len(z))
    for partners in (False, True):
        blocks = z.split(len(own))
        logs = [tiled.square(some, blocks, k, scale, False, partners) for k, some in enumerate(blocks)]
        logs, place = torch.cat(logs), own.start // len(own)
        found = triton_kernels.square(z, own, scale, False, partners)
        torch.testing.assert_close(found, logs[own.start : own.stop], rtol=1e-5, atol=1e-5)
        wanted = tiled.square_pull(blocks[place], blocks, place, scale, False, partners, logs, grads)
        found = triton_kernels.square_pull(z, own, scale, False, partners, logs, grads)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    a, b = z[:n], unit(torch.randn(m + 3, d))
    for scale in (torch.tensor(9.0), torch.tensor(100.0)):
        wide = bool(scale > tiled.WIDEST)
        logs = tiled.cross(a, [b], scale, wide, True)
        torch.testing.assert_close(triton_kernels.cross(a, b, scale, wide, True), logs, rtol=1e-5, atol=1e-4)
        g = torch.randn(len(a)), torch.randn(len(b))
        for some in ((g[0], g[1]), (g[0], None)):
            wanted = tiled.cross_pull(a, b, scale, wide, logs, some, (True, True))
            found = triton_kernels.cross_pull(a, b, scale, wide, logs, some, (True, True))
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
print("alike")
"""


def test_the_triton_kernels_interpreted_on_a_cpu_equal_plain_torch():
    pytest.importorskip("triton")
    # A copy, because Triton reads this as it is imported.
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = forkserver.run(FUSED, env=env)
    assert done.stdout.strip() == "alike", done.stderr
