"""What makes each method that predicts features, or their distribution, itself."""

from __future__ import annotations

import math

import pytest
import torch
from small import given, loops, small, total

from nearfar.losses import unit
from nearfar.methods.deep_infomax import information
from nearfar.methods.lejepa import sigreg
from nearfar.models.layers import reversed_gradient

# LeJEPA


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("n", "d"), [(256, 4), (256, 32), (1024, 16)])
def test_sigreg_is_near_one_for_normal_features_whatever_their_number(n: int, d: int) -> None:
    directions = unit(drawn(256, d))
    normal = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(sigreg(normal, directions)) == pytest.approx(1.05, abs=0.25)
    assert float(sigreg(torch.zeros(n, d).double(), directions)) == pytest.approx(0.402 * n, rel=0.01)
    assert float(sigreg(normal / 2, directions)) > 0.1 * n  # too narrow,
    assert float(sigreg(normal + 1 / d**0.5, directions)) > 3  # or not around 0,
    assert float(sigreg(normal[:, :1].expand(n, d), directions)) > 0.02 * n  # or in one direction


def test_lejepas_directions_are_new_at_each_step_and_saved() -> None:
    module, again = small("lejepa"), small("lejepa")
    first = module.directions
    assert first.shape == (16, 16) and torch.equal(first, again.directions)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(16))
    module.after_step(0.5, {})
    assert not torch.equal(first, module.directions)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.directions, module.directions)


def test_lejepa_pulls_views_to_their_mean_and_tells_the_deviation() -> None:
    module = small("lejepa", lambda_=0.0)
    z = drawn(16, 16)
    found = module.loss((z + 1, z - 1, z, z))
    assert float(found.terms["pull"]) == pytest.approx(0.5) and float(found.terms["sigreg"]) == 0
    assert float(module.metrics(found.watched)["deviation"]) == pytest.approx(
        float(z.std(0, correction=0).mean()), rel=0.01
    )
    assert len(module.embed(given(module, 3))[0]) == 4


# Deep InfoMax


def test_deep_infomax_knows_nothing_where_all_scores_are_nought() -> None:
    maps, h = torch.zeros(5, 9, 4), torch.zeros(5, 4)
    assert float(information(maps, h, "jsd")[0]) == pytest.approx(2 * math.log(2))
    assert float(information(maps, h, "infonce")[0]) == pytest.approx(math.log(1 + 4 * 9))
    maps, h = (
        9 * torch.eye(5)[:, None].expand(5, 9, 5),
        9 * torch.eye(5),
    )
    for estimator in ("jsd", "infonce"):
        found, right = information(maps, h, estimator)
        assert float(found) < 0.7 and right.all()


@pytest.mark.parametrize("words", [{"estimator": "jsd"}, {"global_": 0.5}, {"prior": 0.0}])
def test_deep_infomax_is_its_loops_in_every_form(words: dict[str, object]) -> None:
    module = small("deep_infomax", **words).double()
    batch = given(module, 4)
    batch.views[:] = [view.double() for view in batch.views]
    found = module.embed(batch)
    config = {key: getattr(module.config, key) for key in ("estimator", "local", "global_", "prior")}
    truth = loops("deep_infomax")(*found, **config)
    torch.testing.assert_close(total(module.loss(*found)), truth, rtol=1e-12, atol=1e-12)


def test_deep_infomaxs_encoder_works_against_its_discriminator() -> None:
    module = small("deep_infomax", local=0.0)
    h = torch.randn(4, module.f.dim, requires_grad=True)
    (plain,) = torch.autograd.grad(module.d(h).sum(), h)
    (turned,) = torch.autograd.grad(module.d(reversed_gradient(h)).sum(), h)
    assert torch.equal(turned, -plain) and plain.abs().max() > 0


def test_an_encoder_gives_vector_and_maps_in_one_pass() -> None:
    f = small("deep_infomax").f.eval()
    x = given(small("deep_infomax"), 3).views[0]
    h, levels = f.with_maps(x)
    torch.testing.assert_close(h, f(x))
    assert [level.shape[1] for level in levels] == list(f.map_widths)
    assert all(torch.equal(a, b) for a, b in zip(levels, f.maps(x), strict=True))
