"""What makes each method that predicts features, or their distribution, itself."""

from __future__ import annotations

import pytest
import torch
from small import given, small

from nearfar.losses import unit
from nearfar.methods.lejepa import sigreg

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
