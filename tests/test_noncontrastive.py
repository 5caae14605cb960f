"""What makes each method without negatives itself: what flows where, what moves, what each term measures."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from small import pictures, small, total

from nearfar.images.view_settings import Views
from nearfar.losses.statistics import centred, spread
from nearfar.methods import barlow_twins, byol, simsiam, vicreg
from nearfar.methods.base import Loss
from nearfar.models.ema import cosine_momentum
from nearfar.training import engine, grad_cache, optim
from nearfar.training.replicas import Replicas
from nearfar.training.schedule import StepPlan
from nearfar.training.settings import Training


def trained(module, steps=100, **settings):
    """Train a method on 32 pictures and give it back."""
    training = Training(**{"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.0} | settings)
    maker, batch = optim.optimizer(training, module), pictures(32)
    for step in range(steps):
        maker.zero_grad()
        found = module(batch)
        total(found).backward()
        maker.step()
        module.after_step((step + 1) / steps, found.watched)
    return module


# BYOL


def test_byol_sends_no_gradient_into_what_is_predicted():
    module = small("byol")
    q_i, q_j, z_i, z_j = module.embed(pictures(6))
    assert q_i.requires_grad and q_j.requires_grad and not z_i.requires_grad and not z_j.requires_grad
    z = [x.detach().requires_grad_() for x in (q_i, q_j, z_i, z_j)]
    grads = torch.autograd.grad(total(module.loss(*z)), z, allow_unused=True)
    assert grads[0] is not None and grads[1] is not None and grads[2] is None and grads[3] is None
    slow = [p for name, p in module.named_parameters() if name.startswith("slow_")]
    assert slow and not any(p.requires_grad for p in slow)
    chosen = {p for group in optim.optimizer(Training(), module).param_groups for p in group["params"]}
    assert not chosen & set(slow)


def test_byols_slow_copy_follows_with_a_momentum_that_rises_to_one():
    module = small("byol", ema=0.9)
    for slow, fast in ((module.slow_f, module.f), (module.slow_g, module.g)):
        assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))
    with torch.no_grad():
        for p in (*module.f.parameters(), *module.g.parameters()):
            p.add_(1.0)
    for progress in (0.0, 0.3, 0.5, 1.0):
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
        before = [p.clone() for p in module.slow_g.parameters()]
        module.after_step(progress, {})
        for was, now, fast in zip(before, module.slow_g.parameters(), module.g.parameters(), strict=True):
            torch.testing.assert_close(now, tau * was + (1 - tau) * fast)
    assert cosine_momentum(0.9, 0.0) == pytest.approx(0.9) and cosine_momentum(0.9, 1.0) == 1.0
    assert all(torch.equal(was, now) for was, now in zip(before, module.slow_g.parameters(), strict=True))


def test_byols_distance_is_the_squared_distance_at_length_one():
    q, z = torch.randn(5, 3), torch.randn(5, 3)
    unit = torch.nn.functional.normalize
    wanted = (unit(q, dim=1) - unit(z, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(byol.distance(q, z), wanted)
    torch.testing.assert_close(byol.distance(q, 3 * q), torch.zeros(()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["byol", "barlow_twins"])
def test_views_differ_only_where_the_recipe_blurs(name):
    module = small(name)
    assert module.views(Views()) == (Views(), Views())
    first, second = module.views(Views(blur=0.5, grayscale=0.1))
    assert first == Views(blur=1.0, grayscale=0.1)
    assert second == Views(blur=0.1, grayscale=0.1, solarize=0.2)


# SimSiam


class Flowing(simsiam.SimSiam):
    """SimSiam without its stop-gradient."""

    def loss(self, p_i, p_j, z_i, z_j):
        return Loss({"cosine": simsiam.D(p_i, z_j) / 2 + simsiam.D(p_j, z_i) / 2})


def rank(module):
    """Over how many directions z is spread: the effective rank of its covariance."""
    with torch.no_grad():
        z = centred(torch.cat(module.embed(pictures(32))[2:]))
    share = torch.linalg.svdvals(z).square()
    share = share / share.sum()
    return torch.special.entr(share).sum().exp().item()


def test_simsiam_collapses_without_its_stop_gradient_and_not_with_it():
    kept = trained(small("simsiam"))
    flowing = copy.deepcopy(small("simsiam"))
    flowing.__class__ = Flowing
    lost = trained(flowing)
    assert rank(kept) > 0.5 * rank(small("simsiam"))
    assert rank(lost) < 0.5 * rank(kept)  # all pictures lie along two directions or so,
    assert total(lost(pictures(32))) < total(kept(pictures(32)))  # and the loss is the better for it


def test_simsiams_predictor_keeps_its_rate_while_all_others_fall():
    module, batch = small("simsiam"), pictures(8)
    maker = optim.optimizer(Training(optimizer="adamw", lr=2e-3), module)
    names = {p: name for name, p in module.named_parameters()}
    constant_lr = [{names[p].split(".")[0] for p in group["params"]} for group in maker.param_groups]
    assert all(parts == {"h"} or "h" not in parts for parts in constant_lr) and {"h"} in constant_lr

    class DataLoader:
        waited = 0.0

        def __iter__(self):
            return iter([batch] * 5)

    how = {"plan": StepPlan(((0, 5),)), "lr": 0.01, "warmup": 0.0, "device": torch.device("cpu")}
    for step in engine.train(module, DataLoader(), maker, **how):
        for parts, group in zip(constant_lr, maker.param_groups, strict=True):
            assert group["lr"] == (0.01 if parts == {"h"} else step.lr)
    assert step.number == 5 and step.lr < 0.001


# Barlow Twins


def test_cross_correlation_is_numpys():
    import numpy as np

    z_a, z_b = (torch.randn(40, 6, dtype=torch.float64) for _ in range(2))
    z_b = z_a @ torch.randn(6, 6, dtype=torch.float64) + z_b
    wanted = np.corrcoef(z_a.T.numpy(), z_b.T.numpy())[:6, 6:]
    found = barlow_twins.cross_correlation(z_a, z_b)
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)  # 1e-5 in each variance


def test_barlow_twins_is_content_with_features_that_agree_and_are_unlike_one_another():
    module = small("barlow_twins", scale=1.0)
    z = torch.linalg.qr(centred(torch.randn(64, 16, dtype=torch.float64)))[0] * 8  # variance 1, uncorrelated
    found = module.loss(z, 5 + z)
    assert total(found).item() == pytest.approx(0, abs=1e-6)
    assert module.metrics(found.watched)["agreement"].item() == pytest.approx(1, abs=1e-4)
    terms = module.loss(z, z[:, torch.arange(16).roll(1)]).terms  # every feature agrees with its neighbour
    assert terms["on_diagonal"].item() == pytest.approx(16, rel=1e-3)
    assert terms["off_diagonal"].item() == pytest.approx(0.0051 * 16, rel=1e-3)
    terms = module.loss(z[:, :1].repeat(1, 16), z[:, :1].repeat(1, 16)).terms  # all features are one
    assert terms["on_diagonal"].item() == pytest.approx(0, abs=1e-6)
    assert terms["off_diagonal"].item() == pytest.approx(0.0051 * 16 * 15, rel=1e-3)
    still = module.loss(torch.ones(64, 16), torch.ones(64, 16))  # collapse
    assert still.terms["on_diagonal"].item() == pytest.approx(16) and torch.isfinite(total(still))


# VICReg


def test_vicregs_three_terms_where_they_are_known():
    module = small("vicreg", invariance=1.0, variance=1.0, covariance=1.0)
    z = torch.linalg.qr(centred(torch.randn(64, 16, dtype=torch.float64)))[0] * 63**0.5  # deviation 1
    known = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}

    def check(z_a, z_b, **wanted):
        for name, value in module.loss(z_a, z_b).terms.items():
            assert value.item() == pytest.approx((known | wanted)[name], rel=1e-3, abs=1e-6), name

    check(z, z)
    check(z, z + 3, invariance=9.0)
    check(3 * z, 3 * z)  # wider than asked for costs nothing
    check(z / 2, z / 2, variance=2 * 0.5)
    one = z[:, :1].repeat(1, 16)
    check(one, one, covariance=2 * 15.0)
    still = torch.ones(64, 16)
    check(still, still, variance=2 * 0.99)  # epsilon keeps the root from 0
    assert module.metrics(module.loss(z, z).watched)["deviation"].item() == pytest.approx(1.0)
    torch.testing.assert_close(vicreg.covariance(centred(one)), torch.cov(one.T))


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_bfloat16_does_not_touch_what_is_taken_over_the_batch(name):
    module = small(name)
    z = [torch.randn(32, 16).bfloat16().requires_grad_() for _ in range(2)]
    plain = total(module.loss(*(x.float() for x in z)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(module.loss(*z))
    loss.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, plain)
    assert all(torch.isfinite(x.grad).all() for x in z)


def test_spread_is_one_on_the_sphere_and_zero_in_a_point():
    z = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    assert spread(z).item() == pytest.approx(1.0, abs=0.02)
    assert spread(torch.ones(9, 8)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["byol", "simsiam", "barlow_twins", "vicreg", "supervised"])
def test_chunks_have_the_gradient_of_the_whole_batch_where_there_is_no_batch_norm(name):
    module, batch = small(name).double(), pictures(10)
    batch.views[:] = [view.double() for view in batch.views]
    for key, part in list(module.named_modules()):
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            module.set_submodule(key, torch.nn.Identity())
    other = copy.deepcopy(module)
    terms = grad_cache.backward(Replicas(module, 1), batch, 4, nullcontext)
    loss = total(other(batch))
    loss.backward()
    torch.testing.assert_close(total(terms), loss.detach())
    for (key, mine), theirs in zip(module.named_parameters(), other.parameters(), strict=True):
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=key)
