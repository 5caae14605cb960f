"""Patches: features on one grid in windows or whole, and each detector against a slow reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from torchvision.models import VisionTransformer

from nearfar import models
from nearfar.analysis import patch_banks, spade
from nearfar.analysis.anomaly_maps import boxes, full_size
from nearfar.analysis.coreset import Reservoir, k_center
from nearfar.analysis.padim import RIDGE, Padim
from nearfar.analysis.part_detector import unlike
from nearfar.analysis.patch_banks import SUPPORT, NearestPatch, PatchCore, nearest_rows
from nearfar.analysis.patch_features import patch_features
from nearfar.analysis.spade import Spade
from nearfar.analysis.whitened import Whitened
from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.queries.part_learning import held_out_count


def small() -> models.Encoder:
    with models.seeded(0, "patches"):
        return models.encoder("resnet10_w16", size=64).eval()


def some(count: int, height: int = 6, width: int = 5, seed: int = 0) -> torch.Tensor:
    """Features of pictures: (count, 12, height, width)."""
    return torch.randn(count, 12, height, width, generator=torch.Generator().manual_seed(seed))


class OneMap(Whitened):
    """`Whitened`, given all features as one map."""

    def add(self, features: Any, owner: int, name: int) -> None:
        super().add([features], owner, name)

    def score(self, features: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return super().score([features])


def test_features_are_means_of_the_neighbourhood_of_the_chosen_maps() -> None:
    f = small()
    made = replace(patch_features(f, 64), offsets=())
    assert made.strides == (4, 8) and made.multiple == 8
    x = torch.rand(2, 3, 64, 96)
    found = made(x)
    with torch.no_grad():
        fine, coarse = (f.maps(x)[at] for at in made.levels)
    assert found.shape == (2, fine.shape[1] + coarse.shape[1], 16, 24)
    for at in ((0, 0), (7, 11), (15, 23)):
        rows, columns = (slice(max(0, one - 1), one + 2) for one in at)
        slow = fine[:, :, rows, columns].mean((2, 3))
        assert torch.allclose(found[:, : fine.shape[1], at[0], at[1]], slow, atol=1e-5)
    one = replace(patch_features(f, 64, [8]), offsets=())(x)
    slow = coarse[:, :, 2:5, 3:6].mean((2, 3))
    assert torch.allclose(one[:, :, 3, 4], slow, atol=1e-5)


def test_a_map_shows_a_spot_where_it_is() -> None:
    made = patch_features(small(), 64)
    x = torch.full((2, 3, 128, 128), 0.5)
    x[1, :, 60:68, 76:84] = 1.0  # its middle at 64, 80
    away = {}
    for name, one in (("moved", made), ("as they are", replace(made, offsets=()))):
        plain, spotted = one(x)
        energy = (spotted - plain).square().sum(0)
        at = torch.arange(32) * 4 + 2.0
        down = float((energy.sum(1) * at).sum() / energy.sum())
        across = float((energy.sum(0) * at).sum() / energy.sum())
        away[name] = max(abs(down - 64), abs(across - 80))
    assert away["moved"] < 1.0 < away["as they are"]


def test_a_large_picture_in_windows_has_the_features_of_the_whole() -> None:
    whole = patch_features(small(), 64)
    parts = replace(whole, window=96)
    x = torch.rand(1, 3, 160, 128)
    a, b = whole(x), parts(x)
    assert a.shape == b.shape == (1, a.shape[1], 40, 32)
    # Only places near the edge of a window see another surrounding.
    assert float((a - b).abs()[:, :, :4, :4].max()) < 1e-4
    assert float((a - b).abs().mean() / a.abs().mean()) < 0.25


def test_maps_are_those_that_are_joined() -> None:
    whole = replace(patch_features(small(), 64, coarser=True), offsets=())
    assert whole.strides == (4, 8, 16)
    x = torch.rand(1, 3, 160, 128)
    maps = whole.maps(x)
    assert [tuple(one.shape[2:]) for one in maps] == [(40, 32), (20, 16), (10, 8)]
    assert torch.allclose(whole(x)[:, : maps[0].shape[1]], maps[0], atol=1e-5)
    for one, part in zip(maps, replace(whole, window=96).maps(x), strict=True):
        assert one.shape == part.shape and float((one - part).abs()[:, :, :2, :2].max()) < 1e-4


def test_an_encoder_for_squares_of_one_size_sees_a_picture_in_windows() -> None:
    net = VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16)
    net.heads = torch.nn.Identity()
    f = models.Encoder(net, 16, "a small one", "standard", 32).eval()
    made = patch_features(f, 32)
    assert made.square and made.window == 32
    assert made(torch.rand(1, 3, 48, 80)).shape == (1, 16, 3, 5)
    assert made(torch.rand(1, 3, 16, 16)).shape == (1, 16, 1, 1)  # smaller than the window


def test_a_stride_that_is_not_there_is_refused() -> None:
    with pytest.raises(NearfarError, match="no feature map of stride 5; give --strides some of 2 4 8 16"):
        patch_features(small(), 64, [4, 5])


def test_an_encoder_without_maps_is_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(NearfarError, match="'flat' has no feature maps; choose a residual"):
        patch_features(models.Encoder(flat, 4, "flat", "standard", 32), 32)


def test_a_coreset_keeps_what_was_chosen_before() -> None:
    points = some(1, 20, 20)[0].flatten(1).T
    first = k_center(points[:100], 20, key=1)
    rows = torch.cat([points[first], points[100:]])
    more = k_center(rows, 40, key=1, chosen=20)
    assert more[:20].tolist() == list(range(20)) and len(more.unique()) == 40

    def reach(chosen: torch.Tensor) -> float:
        return float(torch.cdist(rows, rows[chosen]).min(1).values.max())

    # The farthest first: no point is left as far away as those that were taken.
    assert reach(more) < reach(torch.cat([more[:20], torch.arange(20, 40)]))


def test_a_bank_that_grows_gives_no_higher_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_banks, "MOST", 140)
    bank = PatchCore((6, 5))
    for owner in range(4):
        bank.add(some(1, seed=owner), owner, owner)
    bank.settle()
    old, asked = bank.bank.clone(), some(3, seed=50)
    before = bank.score(asked)[0]
    bank.add(some(1, seed=9), 4, 9)
    bank.settle()
    assert torch.equal(bank.bank[: len(old)], old) and len(old) == 120 and len(bank.bank) == 140
    assert bool((bank.score(asked)[0] <= before + 1e-5).all())


def test_a_picture_keeps_its_proportions() -> None:
    made = patch_features(small(), 64)
    assert made.shape_for(300, 400, 96) == (96, 128)
    assert made.shape_for(1000, 100, 64) == (640, 64)
    assert made.shape_for(3, 3, 2) == (8, 8)


def test_the_nearest_row_is_found() -> None:
    points, bank = some(1)[0].flatten(1).T, some(3, seed=1).permute(0, 2, 3, 1).flatten(0, 2)
    slow = torch.cdist(points.double(), bank.double()).min(1)
    away, rows = nearest_rows(points, bank)
    assert torch.equal(rows, slow.indices) and torch.allclose(away.double(), slow.values, atol=1e-5)


def test_a_reservoir_does_not_depend_on_the_order() -> None:
    rows = torch.arange(500.0)[:, None]
    keys = torch.from_numpy(rng.uniform(3, np.arange(500), 1)[:, 0])
    whole, parts = Reservoir(40), Reservoir(40)
    whole.add(rows, rows[:, 0].long(), keys)
    for low in range(450, -1, -50):
        parts.add(rows[low : low + 50], rows[low : low + 50, 0].long(), keys[low : low + 50])
    assert torch.equal(whole.sample()[0], parts.sample()[0])
    assert set(whole.sample()[1].tolist()) == set(keys.argsort()[:40].tolist())


def test_k_center_is_greedy() -> None:
    points = torch.randn(80, 5, generator=torch.Generator().manual_seed(1))
    found = k_center(points, 10, key=7).tolist()
    for at in range(1, 10):
        away = torch.cdist(points, points[found[:at]]).min(1).values
        assert found[at] == int(away.argmax())


def test_k_center_chooses_no_point_twice() -> None:
    draw = torch.Generator().manual_seed(2)
    points = 1000 + torch.randn(60, 40, generator=draw)  # far off, so that distances are rounded much
    points[30:] = points[:30]
    assert sorted(k_center(points, 60, key=3).tolist()) == list(range(60))


@pytest.mark.parametrize("kind", [NearestPatch, PatchCore, Padim, Spade, OneMap])
def test_a_detector_sees_a_part_that_no_normal_picture_has(kind: type) -> None:
    normal, asked = some(12), some(4, seed=5)
    asked[2, :, 3, 1] += 8
    made = kind((6, 5))
    for row, one in enumerate(normal):
        made.add(one[None], row, row)
    made.settle()
    places, scores = made.score(asked)
    assert places.shape == (4, 6, 5) and int(scores.argmax()) == 2
    assert divmod(int(places[2].argmax()), 5) == (3, 1)
    again = kind((6, 5))
    again.load(made.state())
    assert all(torch.allclose(a, b) for a, b in zip(again.score(asked), (places, scores), strict=True))


def test_nearest_is_the_distance_to_the_bank() -> None:
    normal, asked = some(5), some(2, seed=3)
    made = NearestPatch((6, 5))
    for row, one in enumerate(normal):
        made.add(one[None], row, row)
    made.settle()
    bank = normal.permute(0, 2, 3, 1).flatten(0, 2)
    for picture, (places, score) in enumerate(zip(*made.score(asked), strict=True)):
        slow = torch.cdist(asked[picture].flatten(1).T, bank).min(1).values
        assert torch.allclose(places.flatten(), slow, atol=1e-4)
        assert float(score) == pytest.approx(float(slow.max()), rel=1e-4)


def test_spade_compares_with_the_pictures_that_look_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spade, "PICTURES", 2)
    normal = torch.cat([some(3, seed=1) + 9, some(3, seed=2)])
    made = Spade((6, 5))
    for row in (4, 0, 3, 1, 5, 2):
        made.add(normal[row : row + 1], row, row)
    made.settle()
    asked = some(2, seed=6) + torch.tensor([9.0, 0.0])[:, None, None, None]
    pooled = torch.nn.functional.adaptive_avg_pool2d
    for picture, places in zip(asked, made.score(asked)[0], strict=True):
        near = torch.cdist(pooled(picture[None], 4).flatten(1), pooled(normal, 4).flatten(1))[0].argsort()[:2]
        bank = normal[near].permute(0, 2, 3, 1).flatten(0, 2)
        slow = torch.cdist(picture.flatten(1).T, bank).min(1).values
        assert torch.allclose(places.flatten(), slow, atol=1e-4)


def test_a_bank_that_grows_is_the_bank_of_all() -> None:
    normal = some(9)
    at_once, grown = NearestPatch((6, 5)), NearestPatch((6, 5))
    for row, one in enumerate(normal):
        at_once.add(one[None], row, row)
        grown.add(one[None], row, row)
        if row in (3, 6):
            grown.settle()
    at_once.settle()
    grown.settle()
    assert torch.equal(at_once.bank, grown.bank) and torch.equal(at_once.owners, grown.owners)
    few = PatchCore((6, 5))
    for row, one in enumerate(normal):
        few.add(one[None], row, row)
        if row == 4:
            few.settle()
    few.settle()
    assert set(few.owners.tolist()) & {5, 6, 7, 8} and len(few.bank) == 270


def test_patchcore_weighs_a_picture_as_its_equation_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_banks, "MOST", 60)
    made = PatchCore((6, 5))
    for row, one in enumerate(some(20)):
        made.add(one[None], row, row)
    made.settle()
    assert len(made.bank) == 60  # of 600
    asked = some(3, seed=8)
    places, scores = made.score(asked)
    bank = made.bank.tolist()
    for picture in range(3):
        rows = asked[picture].flatten(1).T.tolist()
        nearest = [min(range(len(bank)), key=lambda m: math.dist(row, bank[m])) for row in rows]
        away = [math.dist(row, bank[m]) for row, m in zip(rows, nearest, strict=True)]
        worst = max(range(len(rows)), key=lambda at: away[at])
        heart = bank[nearest[worst]]
        support = sorted(bank, key=lambda m: math.dist(heart, m))[:SUPPORT]
        total = sum(math.exp(math.dist(rows[worst], m)) for m in support)
        slow = (1 - math.exp(away[worst]) / total) * away[worst]
        assert float(scores[picture]) == pytest.approx(slow, rel=1e-4)
        assert places[picture].flatten().tolist() == pytest.approx(away, rel=1e-4)


def test_padim_is_the_mahalanobis_distance_of_a_shrunk_covariance() -> None:
    normal, asked = some(30), some(2, seed=4)
    made = Padim((6, 5))
    for row, one in enumerate(normal):
        made.add(one[None], row, row)
    made.settle()
    places, _ = made.score(asked)
    values = normal.double().numpy()
    mean = values.mean(0)  # (12, 6, 5)
    variance = values.var(0).mean() + mean.reshape(12, -1).var(1).mean()
    for at in ((0, 0), (2, 4), (5, 1)):
        x = values[:, :, at[0], at[1]]
        shrunk, _ = oas(x)
        full = shrunk + RIDGE * variance * np.eye(12)
        for picture in range(2):
            away = asked[picture, :, at[0], at[1]].double().numpy() - x.mean(0)
            slow = np.sqrt(away @ np.linalg.solve(full, away))
            assert float(places[picture][at]) == pytest.approx(slow, rel=1e-3)


@pytest.mark.parametrize("kind", [NearestPatch, PatchCore, Padim, Spade, OneMap])
@pytest.mark.parametrize("alike", [False, True])
def test_one_normal_picture_or_many_alike_give_finite_scores(kind: type, alike: bool) -> None:
    one = some(1)
    made = kind((6, 5))
    for row in range(5 if alike else 1):
        made.add(one, row, row)
    made.settle()
    odd = one.clone()
    odd[0, :, 1, 1] += 5
    places, scores = made.score(torch.cat([one, odd]))
    assert places.isfinite().all() and scores.isfinite().all() and scores[1] > scores[0]


def test_owners_can_be_left_out() -> None:
    made = NearestPatch((6, 5))
    for row, one in enumerate(some(4)):
        made.add(one[None], row, row)
    made.settle(frozenset({1, 3}))
    assert set(made.owners.tolist()) == {0, 2}


def test_a_map_has_the_size_of_the_picture_and_its_peak_where_it_was() -> None:
    places = torch.zeros(6, 8)
    places[4, 2] = 1
    found = full_size(places, (60, 120))
    assert found.shape == (60, 120) and found.dtype == np.float32
    y, x = np.unravel_index(found.argmax(), found.shape)
    assert abs(y - 44.5) < 6 and abs(x - 37) < 9
    assert np.allclose(full_size(torch.full((3, 3), 2.0), (50, 20)), 2)


def test_boxes_hold_the_strangest_parts_in_order() -> None:
    heat = np.zeros((40, 50), np.float32)
    heat[5:10, 20:30] = 3
    heat[30:33, 2:6] = 4
    heat[20, 40] = 1  # less than half of the peak
    assert boxes(heat) == [
        {"x1": 2, "y1": 30, "x2": 6, "y2": 33, "score": 4.0},
        {"x1": 20, "y1": 5, "x2": 30, "y2": 10, "score": 3.0},
    ]
    assert len(boxes(heat, floor=3.5)) == 1 and boxes(heat, floor=9) == [] and boxes(0 * heat) == []


def test_who_is_unlike_the_others() -> None:
    import torch

    rows = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    owners = torch.arange(400) % 20
    assert unlike((rows, owners)) == []
    rows[37] += 20
    assert unlike((rows, owners)) == [17]
    assert unlike((rows[:7], owners[:7])) == [] and unlike(None) == []


def test_how_many_are_held_out() -> None:
    assert held_out_count(100, 0, 0.05) == 20 and held_out_count(40, 0, 0.05) == 19
    assert held_out_count(37, 0, 0.05) == 0 and held_out_count(100, 0, 0.01) == 0
    assert held_out_count(198, 0, 0.01) == 99 and held_out_count(16, 20, 0.1) == 9
    with pytest.raises(NearfarError, match="must lie between 0 and 1"):
        held_out_count(10, 0, 1.5)
