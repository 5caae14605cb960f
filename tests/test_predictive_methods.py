"""What makes each method that predicts features, or their distribution, itself."""

from __future__ import annotations

import math

import pytest
import torch
from small import given, loops, pictures, small, total

from nearfar.losses import unit
from nearfar.methods.base import Batch
from nearfar.methods.deep_infomax import information
from nearfar.methods.lejepa import sigreg
from nearfar.training import optim
from nearfar.training.settings import Training

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


def test_deep_infomaxs_encoder_and_discriminator_learn_each_from_its_own_term() -> None:
    module = small("deep_infomax")
    batch = given(module, 8)
    *_, told, _, encoded = module.embed(batch)
    assert torch.equal(told, encoded)  # the same answers
    for term, learns in (("prior_discriminator", {"d"}), ("prior", {"f"})):
        module.zero_grad()
        module(batch).terms[term].backward()
        moved = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
        assert moved == learns
    # f makes its vectors look even: the answers to them fall, the surer the discriminator is the faster.
    (slope,) = torch.autograd.grad(
        module.loss(*module.embed(batch)[:-1], encoded + 9).terms["prior"], encoded
    )
    torch.testing.assert_close(slope, torch.full_like(slope, 0.1 / 8), rtol=1e-3, atol=0)


def test_deep_infomaxs_prior_stays_a_game_of_two() -> None:
    """Vectors behind a ReLU can look as if they were drawn evenly, so that neither side wins for good."""
    module = small("deep_infomax")
    maker = optim.optimizer(Training(optimizer="adamw", lr=2e-3), module)
    lost, pulls, beside = [], [], []
    for step in range(120):
        batch = pictures(16, seed=step % 8, views=1)
        found = module(Batch(batch.views, batch.rows, None, step))
        maker.zero_grad()
        found.terms["prior"].backward(retain_graph=True)
        pulls.append(float(sum(p.grad.norm() for p in module.f.parameters() if p.grad is not None)))
        maker.zero_grad()
        total(found).backward()
        maker.step()
        lost.append(float(found.terms["prior_discriminator"].detach()) / module.config.prior)
        beside.append(float(found.terms["prior"].detach()) / module.config.prior)
    assert sum(lost[-20:]) / 20 > 0.05 and sum(beside[-20:]) / 20 > 0.05
    assert min(pulls[1:]) > 1e-3


def test_an_encoder_gives_vector_and_maps_in_one_pass() -> None:
    f = small("deep_infomax").f.eval()
    x = given(small("deep_infomax"), 3).views[0]
    h, levels = f.with_maps(x)
    torch.testing.assert_close(h, f(x))
    assert [level.shape[1] for level in levels] == list(f.map_widths)
    assert all(torch.equal(a, b) for a, b in zip(levels, f.maps(x), strict=True))
