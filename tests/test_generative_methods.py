"""What makes each method that decodes images itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import given, pictures, small, total
from torch import nn

from nearfar.core import rng
from nearfar.losses.statistics import variance_explained
from nearfar.methods import bigan
from nearfar.methods.base import Batch
from nearfar.methods.vae import VAE, Config
from nearfar.models.decoder import Decoder
from nearfar.training import optim
from nearfar.training.settings import Training


def test_normal_numbers_are_normal_and_named() -> None:
    x = rng.normal(3, np.arange(500), 40)
    assert x.shape == (500, 40) and np.isfinite(x).all()
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02 and abs((np.abs(x) < 1).mean() - 0.683) < 0.01
    assert np.array_equal(rng.normal(3, [7], 40)[0], x[7])
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.15


@pytest.mark.parametrize("side", [16, 24, 32])
def test_a_decoder_makes_images_of_any_side(side: int) -> None:
    made = Decoder(8, side)(torch.randn(2, 8), side)
    assert made.shape == (2, 3, side, side)
    assert Decoder(8, None)(torch.randn(2, 8), side).shape == made.shape


def test_the_share_explained_is_that_of_the_variance_over_images() -> None:
    x = torch.randn(40, 3, 4, 4)
    assert float(variance_explained(x, x)) == 1
    assert float(variance_explained(x.mean(0).expand_as(x), x)) == pytest.approx(0, abs=1e-5)
    assert float(variance_explained(-x, x)) == 0
    assert float(variance_explained(x / 2, x)) == pytest.approx(0.75, abs=0.02)


def test_the_denoising_autoencoder_sees_a_spoilt_view_and_learns_the_plain_one() -> None:
    batch = given(small("dae"), 200)
    (x,) = batch.views
    noise = small("dae", noise=0.3).corrupted(batch, x) - x
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    module = small("dae", corruption="blocks", blanked=0.25)
    seen = (module.corrupted(batch, x) == x).all(1).float()
    assert float(seen.mean()) == pytest.approx(0.75, abs=0.02)
    assert torch.equal(seen[:, ::2, ::2], seen[:, 1::2, 1::2])  # blocks of 2 x 2 pixels
    y, wanted = module.embed(batch.part(slice(0, 4)))
    assert wanted is not y and torch.equal(wanted, x[:4]) and y.shape == wanted.shape


class Flat(nn.Module):
    """A small encoder of 8 px images."""

    dim, size = 64, 8

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
        self.net = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_a_vae_finds_the_two_numbers_that_images_are_made_of() -> None:
    """A soft spot somewhere on black: its place is linear in two numbers."""
    place = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    axis = torch.linspace(-1.5, 1.5, 8)
    far = (axis[None, :, None] - place[:, 0, None, None]) ** 2
    x = torch.exp(-(far + (axis[None, None] - place[:, 1, None, None]) ** 2))[:, None].repeat(1, 3, 1, 1)
    torch.manual_seed(0)
    module = VAE(Flat(), Config(latent=2, beta=4.0))  # type: ignore[arg-type]
    maker = optim.optimizer(Training(optimizer="adamw", lr=1e-2), module)
    for step in range(140):
        rows = torch.arange(32) + 32 * (step % 2)
        found = module(Batch([x[rows]], rows, None, step))
        maker.zero_grad()
        total(found).backward()
        maker.step()
    _, _, mu, log_var = module.eval().embed(Batch([x], torch.arange(64), None, 0))
    known = torch.cat([mu, torch.ones(64, 1)], 1).detach()
    left = place - known @ torch.linalg.lstsq(known, place).solution
    assert float(1 - left.square().sum() / (place - place.mean(0)).square().sum()) > 0.95
    kl = (mu.square() + log_var.exp() - 1 - log_var).sum(1).mean() / 2
    assert float(kl.detach()) > 2 and float(module.metrics(found.watched)["active_numbers"]) == 2


def test_a_vae_with_too_large_a_beta_leaves_its_numbers_unused() -> None:
    module = small("vae", beta=1e4)
    maker = optim.optimizer(Training(optimizer="adamw", lr=2e-3), module)
    for step in range(60):
        found = module(Batch(pictures(16, views=1).views, torch.arange(16), None, step))
        maker.zero_grad()
        total(found).backward()
        maker.step()
    assert float(module.metrics(found.watched)["active_numbers"]) == 0


# BiGAN


def test_no_side_of_the_game_learns_from_the_others_loss() -> None:
    module = small("bigan")
    batch = given(module, 8)
    real, made, encoded, generated, *_ = module.embed(batch)
    assert torch.equal(real, encoded) and torch.equal(made, generated)  # the same scores of the same pairs
    for term, learns in (
        ("discriminator", {"discriminator"}),
        ("encoder_generator", {"f", "q", "generator"}),
    ):
        module.zero_grad()
        module(batch).terms[term].backward()
        moved = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
        assert moved == learns
    assert optim.optimizer(Training(optimizer="adamw"), module).defaults["betas"] == (0.5, 0.999)


def test_the_bound_is_the_largest_singular_value_and_its_gradient() -> None:
    torch.manual_seed(0)
    for layer, x in (
        (nn.Linear(12, 7), torch.randn(5, 12)),
        (nn.Conv2d(3, 6, 4, 2, 1), torch.randn(2, 3, 8, 8)),
    ):
        bounded = bigan.Bounded(layer).double()
        bounded.turn(300)
        y = bounded(x.double())
        bias = layer.bias.view(-1, *[1] * (x.dim() - 2))
        truth = (layer(x.double()) - bias) / torch.linalg.matrix_norm(layer.weight.flatten(1), 2) + bias
        torch.testing.assert_close(y, truth)
        pull = torch.randn_like(y)
        (grad,) = torch.autograd.grad((y * pull).sum(), layer.weight, retain_graph=True)
        (right,) = torch.autograd.grad((truth * pull).sum(), layer.weight)
        torch.testing.assert_close(grad, right, rtol=1e-6, atol=1e-8)


def test_a_bigan_stays_finite_and_its_generator_comes_near_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A soft spot somewhere near the middle of black."""
    monkeypatch.setattr(bigan, "WIDTHS", (8, 16, 32))
    monkeypatch.setattr(bigan, "UNITS", 64)
    axis = torch.linspace(-1.5, 1.5, 8)
    place = torch.rand(32, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    far = (axis[None, :, None] - place[:, 0, None, None]) ** 2
    x = torch.exp(-(far + (axis[None, None] - place[:, 1, None, None]) ** 2) * 3)[:, None].repeat(1, 3, 1, 1)
    torch.manual_seed(0)
    module = bigan.BiGAN(Flat(), bigan.Config(latent=8))  # type: ignore[arg-type]
    maker = optim.optimizer(Training(optimizer="adamw", lr=2e-3), module)
    gaps = []
    for step in range(80):
        found = module(Batch([x], torch.arange(32), None, step))
        maker.zero_grad()
        total(found).backward()
        maker.step()
        module.after_step(step / 80, found.watched)
        gaps.append(float((found.watched["again"].mean(0) - x.mean(0)).abs().mean()))
        assert total(found).isfinite() and 0 <= float(module.metrics(found.watched)["images_found"]) <= 1
    assert all(p.isfinite().all() for p in module.parameters())
    assert np.mean(gaps[-20:]) < 0.35 * gaps[0], gaps[::10]
    assert found.watched["again"].std(0).mean() > 0.02  # not one image for all numbers
    told = module.q(module.f(x))
    torch.testing.assert_close(told.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(told.var(0, unbiased=False), torch.ones(8), atol=1e-2, rtol=0)
    exact = {"right": torch.ones(()), "x": x, "again": x.flip(0)}
    assert float(module.metrics(exact | {"again": x})["images_found"]) == 1
    assert float(module.metrics(exact)["images_found"]) == 0
