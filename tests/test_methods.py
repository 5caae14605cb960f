"""What every entry of METHODS must do; to register a method is to have it tested.

That a run resumes bit for bit, and that its encoder loads without the method's code, is tested with the
run folder, in test_pretrain.py.
"""

import subprocess
import sys

import processes
import pytest
import torch

from nearfar import methods, nets, optim
from nearfar.config import build, settings_of, to_json
from nearfar.errors import NearfarError
from nearfar.methods.base import Batch, Method
from nearfar.settings import Training, Views

every = pytest.mark.parametrize("name", methods.METHODS)


def small(name, **values) -> Method:
    with nets.seeded(0, name):
        return methods.method(name)(nets.encoder("resnet10_w16"), build(methods.settings(name), values))


def pictures(count, side=16, seed=0):
    """Blurred noise, and a second view that is a little lighter, noisier and flipped."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    first = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    noise = 0.1 * torch.randn(first.shape, generator=generator)
    second = (0.9 * first.flip(3) + 0.1 + noise).clamp(0, 1)
    return Batch([first, second], torch.arange(count), torch.arange(count) % 3)


def total(terms):
    return torch.stack(list(terms.values())).sum()


@every
def test_settings_build_from_defaults_and_round_trip(name):
    config = build(methods.settings(name), {})
    assert build(methods.settings(name), to_json(config)) == config
    assert to_json(config) == to_json(type(small(name).config)())
    for item in settings_of(methods.settings(name)):
        assert item.help and item.source, item.name


@every
def test_a_file_holds_what_its_paper_needs(name):
    module = sys.modules[methods.method(name).__module__]
    text = module.__doc__
    assert "Shapes:" in text and "def loss" in text and "arXiv" in text
    assert methods.method(name).__doc__


@every
def test_terms_are_finite_scalars_and_reach_every_parameter(name):
    module = small(name)
    # a zero last gamma blocks the gradient of what stands before it; training soon moves it
    for key, p in module.named_parameters():
        if key.endswith("bn2.weight"):
            torch.nn.init.constant_(p, 0.5)
    batch = pictures(8)
    terms = module(batch)
    assert terms and all(term.dim() == 0 and torch.isfinite(term) for term in terms.values())
    total(terms).backward()
    for key, p in module.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().max() > 0, key
    module.after_step(0.5)
    assert all(torch.isfinite(value).all() for value in module.measures().values())
    assert len(module.views(Views())) == len(batch.views)


@every
def test_overfits_eight_pictures_and_keeps_a_spread(name):
    module = small(name)
    maker = optim.optimizer(Training(), module)
    batch = pictures(8)
    first = None
    for step in range(60):
        loss = total(module(batch))
        maker.zero_grad()
        loss.backward()
        maker.step()
        module.after_step(step / 60)
        first = loss.item() if first is None else first
    assert loss.item() < 0.5 * first
    with torch.no_grad():
        h = torch.nn.functional.normalize(module.f(torch.cat(batch.views)), dim=1)
    assert h.std(0).mean() > 0.2 / module.f.dim**0.5  # near 0 would be collapse


@every
def test_the_same_batch_twice_gives_the_same_bits(name):
    losses = []
    for _ in range(2):
        torch.manual_seed(len(losses))
        module = small(name)
        loss = total(module(pictures(8)))
        loss.backward()
        losses.append([loss, *(p.grad for p in module.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


@every
def test_forward_is_loss_of_embed(name):
    module = small(name)
    batch = pictures(8)
    whole = module(batch)
    halves = module.loss(*module.embed(batch))
    assert whole.keys() == halves.keys()
    torch.testing.assert_close(total(whole), total(halves))


def test_two_processes_give_the_gradient_of_one():
    one, two = processes.one("gradients"), processes.two("gradients")
    assert one.keys() == two[0].keys() and len(one) > len(methods.METHODS)
    for key, value in one.items():
        if ".term." in key:
            mean = (two[0][key] + two[1][key]) / 2
            torch.testing.assert_close(mean, value, rtol=0, atol=1e-12)
        else:
            torch.testing.assert_close(two[0][key], value, rtol=0, atol=1e-12, msg=key)
            assert torch.equal(two[0][key], two[1][key])


def test_simclr_takes_a_deeper_head_and_any_temperature():
    module = small("simclr", head=[32, 16, 8], tau=0.1)
    assert [p.out_features for p in module.g if isinstance(p, torch.nn.Linear)] == [32, 16, 8]
    z_i, _ = module.embed(pictures(4))
    torch.testing.assert_close(z_i.norm(dim=1), torch.ones(4))
    with pytest.raises(NearfarError, match="--tau"):
        small("simclr", tau=0.0)


def test_an_unknown_method_is_answered_with_the_nearest():
    for find in (methods.method, methods.settings):
        with pytest.raises(NearfarError, match="simclr"):
            find("simclar")


def test_settings_are_read_without_torch():
    code = "import sys, nearfar.methods as m; m.settings('simclr'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
