"""Label-free figures against closed forms: known spectra, planted collapses, brute force."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nearfar
from nearfar import models
from nearfar.data import cache
from nearfar.data.sources import open_source
from nearfar.health import measure, metrics
from nearfar.health.measure import health
from nearfar.images.views import Preprocess


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(values: torch.Tensor, n: int = 400) -> torch.Tensor:
    """Features whose centred singular values are exactly these."""
    d = len(values)
    u = normal(n, d)
    u = torch.linalg.qr(u - u.mean(0)).Q
    return u * values @ torch.linalg.qr(normal(d, d, seed=1)).Q


def test_rank_figures_of_a_flat_spectrum_are_its_width() -> None:
    z = planted(torch.ones(12).double())
    assert metrics.rankme(z) == pytest.approx(12, rel=1e-4)
    assert metrics.stable_rank(z) == pytest.approx(12)
    assert metrics.nesum(z) == pytest.approx(12)
    assert metrics.alpha_req(z) == pytest.approx(0, abs=1e-9)


def test_rank_figures_of_a_collapse_are_one_and_constant_features_are_no_error() -> None:
    z = normal(300, 1) @ normal(1, 16)
    assert metrics.rankme(z) == pytest.approx(1, abs=1e-3)
    assert metrics.stable_rank(z) == pytest.approx(1) and metrics.nesum(z) == pytest.approx(1)
    flat = torch.ones(300, 16)
    assert metrics.uniformity(flat) == pytest.approx(0, abs=1e-6)
    assert metrics.spread(flat) == pytest.approx(0, abs=1e-6)
    assert math.isnan(metrics.alpha_req(torch.zeros(30, 4)))
    assert metrics.nesum(torch.zeros(30, 4)) == metrics.stable_rank(torch.zeros(30, 4)) == 0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_req_finds_a_planted_power_law(alpha: float) -> None:
    k = torch.arange(1, 33, dtype=torch.float64)
    assert metrics.alpha_req(planted(k ** (-alpha / 2))) == pytest.approx(alpha, rel=1e-9)


def test_rankme_is_the_exponential_of_the_entropy_of_the_singular_values() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 1.0]).double()
    p = values / 8
    assert metrics.rankme(planted(values)) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-5)


def test_lidar_counts_the_directions_in_which_images_differ_and_views_do_not() -> None:
    images, members, d = 4000, 6, 10
    signal, noise = torch.zeros(d).double(), torch.ones(d).double()
    signal[:4], noise[:4] = 5.0, 0.1
    z = (normal(images, d) * signal)[:, None] + normal(images, members, d, seed=3) * noise
    # the other six hold noise alone: a sixth of it is left between the means of six views
    assert metrics.lidar(z) == pytest.approx(4, rel=0.02)
    assert metrics.lidar(normal(images, members, d)) == pytest.approx(d, rel=0.02)
    assert metrics.lidar(z) < metrics.rankme(z.flatten(0, 1))


def test_lidar_without_grouping_by_image_would_be_blind() -> None:
    z = normal(500, 1, 8).repeat(1, 4, 1) * 3 + 0.1 * normal(500, 4, 8, seed=2) * torch.arange(1, 9)
    shuffled = z.flatten(0, 1)[torch.randperm(2000, generator=torch.Generator().manual_seed(0))].view(
        500, 4, 8
    )
    assert metrics.lidar(z) < 7 < metrics.lidar(shuffled)


def test_sphere_figures_equal_brute_force_and_closed_forms() -> None:
    z = normal(60, 5)
    unit = z / z.norm(dim=1, keepdim=True)
    distance = torch.cdist(unit, unit).square()
    pairs = distance[~torch.eye(60, dtype=torch.bool)]
    assert metrics.uniformity(z) == pytest.approx(float(torch.exp(-2 * pairs).mean().log()), rel=1e-9)
    other = normal(60, 5, seed=4)
    brute = (unit - other / other.norm(dim=1, keepdim=True)).square().sum(1).mean()
    assert metrics.alignment(z, 3 * other) == pytest.approx(float(brute), rel=1e-9)
    assert metrics.alignment(z, -z) == pytest.approx(4) and metrics.alignment(z, 2 * z) == pytest.approx(0)
    assert metrics.spread(normal(20000, 32)) == pytest.approx(1, rel=0.02)


def test_agreement_counts_common_neighbours() -> None:
    x = normal(50, 6)
    assert metrics.agreement(x, 2 * x, 5) == 1.0
    angles = torch.tensor([0.0, 0.1, 0.2, 3.0, 3.1, 3.2]).double()
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    moved = circle[[0, 1, 3, 2, 4, 5]]  # rows 2 and 3 have changed places
    # by hand: rows 0 and 1 lose one of two, rows 2 and 3 both, rows 4 and 5 one
    assert metrics.agreement(circle, moved, 2) == pytest.approx(4 * 0.5 / 6)


def test_agreement_of_a_collapse_is_no_better_than_at_random() -> None:
    for same in (torch.ones(200, 4), torch.zeros(200, 4)):
        assert metrics.agreement(same, same) < 0.2
    few = normal(3, 6)[torch.arange(240) % 3]  # which of 80 others are near, nothing says
    assert metrics.agreement(few, few) < 0.4


def test_health_of_a_run_is_repeatable_and_leaves_the_encoder_alone(photos, tmp_path) -> None:
    run = nearfar.pretrain(
        photos, out=tmp_path / "run", steps=3, batch_size=16, encoder="resnet10_w16", device="cpu"
    )
    source = open_source(photos)
    store = cache.load(source, short_side=None, max_pixels=10**8, max_bad=0.5, threads=1)
    before = {name: value.clone() for name, value in run.encoder.state_dict().items()}
    net, needs = run.encoder, run.preprocess
    one, two = health(net, needs, store), health(net, needs, store)
    assert one == two and one != health(net, needs, store, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in run.encoder.state_dict().items())
    assert one.images == len(store) and 0 <= one.contrastive_accuracy <= 1
    assert all(np.isfinite(value) for value in one.to_json().values())


def test_lidar_is_of_images_from_all_over_the_collection(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cache.load(open_source(photos), short_side=None, max_pixels=10**8, max_bad=0.5, threads=1)
    seen, view = [], measure._view

    def watched(model: Any, part: Any, *how: Any) -> torch.Tensor:
        seen.append(part.rows)
        return view(model, part, *how)

    monkeypatch.setattr(measure, "_view", watched)
    net = models.encoder("resnet10_w16", size=32, seed=0)
    health(net, Preprocess(size=32), store, groups=len(store) // 4)
    few = seen[-1]
    assert len(few) == len(store) // 4 and len(np.unique(few)) == len(few)
    assert few.min() < len(store) / 3 and few.max() > 2 * len(store) / 3


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("floor", [0.0, 1e-5])
def test_alpha_req_finds_the_power_law_that_features_were_sampled_from(alpha: float, floor: float) -> None:
    """As many images as health checks have: the last eigenvalues of a sample are far too small."""
    d, n = 512, 1024
    draw = torch.Generator().manual_seed(0)
    k = torch.arange(1, d + 1, dtype=torch.float64)
    z = torch.randn(n, d, generator=draw, dtype=torch.float64) * (k**-alpha + floor).sqrt()
    assert metrics.alpha_req(z) == pytest.approx(alpha, abs=0.12)
