"""Heat maps: their peak lies on what was planted, for every kind of encoder; patches are thinned evenly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import picture

from nearfar import models
from nearfar.analysis import heatmaps
from nearfar.analysis.heatmaps import RAMP, k_center, overlay, planes, remember
from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.features.chunked import Chunk, ragged_chunk
from nearfar.images.views import Preprocess

ENCODERS = {"resnet8": 32, "resnet10_w16": 64, "torchvision:resnet18": 64, "vit_tiny_patch16_224": 160}


def held(pictures: list[np.ndarray]) -> Chunk:
    return ragged_chunk(range(len(pictures)), pictures)


def stripes(count: int, side: int, start: int = 0) -> list[np.ndarray]:
    """Two kinds of stripes, each image moved along and a little noisy, as goods on a belt are."""
    draws = np.random.default_rng(start)
    made = []
    for number in range(count):
        moved = np.roll(picture(number % 2, side, kind=number % 2), draws.integers(side, size=2), (0, 1))
        made.append(np.clip(moved + draws.normal(0, 6, moved.shape), 0, 255).astype(np.uint8))
    return made


def encoder(name: str, side: int) -> models.Encoder:
    """An encoder with random weights, its batch norms in order."""
    made = models.encoder(name, stem="standard", size=side, seed=0)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # all batches count alike
    with torch.no_grad():
        made(torch.from_numpy(np.stack(stripes(16, side))).permute(0, 3, 1, 2) / 255)
    return made.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_the_peak_lies_on_the_planted_patch(name: str) -> None:
    side = ENCODERS[name]
    made, preprocess = encoder(name, side), Preprocess(size=side, crop=1.0)
    normal, asked = stripes(48, side), stripes(8, side, start=100)
    spot = max(6, side // 5)
    corners = (rng.uniform(3, np.arange(8), 2) * (side - spot)).astype(int)
    noise = np.random.default_rng(0).integers(0, 256, (spot, spot, 3), np.uint8)
    odd = [one.copy() for one in asked]
    for one, (top, left) in zip(odd, corners, strict=True):
        one[top : top + spot, left : left + spot] = noise
    memory = remember(made, preprocess, held(normal))
    plain, anomalous = memory.maps(held(asked)), memory.maps(held(odd))
    assert anomalous.shape == (8, side, side)
    peaks = np.array([np.unravel_index(one.argmax(), one.shape) for one in anomalous])
    away = np.abs(peaks - (corners + spot / 2)).max(axis=1)
    step = side / planes(made, torch.rand(1, 3, side, side)).shape[2]
    # A place speaks for its neighbours too, and for as much of the image as half a step to either side.
    assert (away <= spot / 2 + 1.5 * step).sum() >= 7, (name, away)
    assert (anomalous.max((1, 2)) > plain.max((1, 2))).all()
    assert np.array_equal(anomalous, memory.maps(held(odd)))
    again = remember(made, preprocess, held(normal))
    assert torch.equal(again.patches, memory.patches)


def test_the_memory_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmaps, "READ", 960)  # of each image, ten of its places
    made, preprocess = encoder("resnet8", 32), Preprocess(size=32, crop=1.0)
    normal, before, found = held(stripes(96, 32)), torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(remember(made, preprocess, normal).patches)
    torch.set_num_threads(before)
    assert torch.allclose(*found, atol=1e-5)


def test_a_tenth_of_the_patches_is_kept_and_an_image_that_is_kept_whole_is_no_anomaly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, preprocess = encoder("resnet8", 32), Preprocess(size=32, crop=1.0)
    normal = held(stripes(4, 32))
    few = remember(made, preprocess, normal)
    every = planes(made, torch.rand(2, 3, 32, 32))
    assert few.patches.shape == (int(4 * every.shape[2] ** 2 * 0.1), every.shape[1])
    monkeypatch.setattr(heatmaps, "SHARE", 1.0)
    assert remember(made, preprocess, normal).maps(normal).max() < 1e-2 < few.maps(normal).max()


def test_planes_of_a_vision_transformer_are_its_patches() -> None:
    made = encoder("vit_tiny_patch16_224", 96)  # 6 x 6 patches and one token for all
    x = torch.rand(1, 3, 96, 96)
    assert planes(made, x).shape == (1, 192, 6, 6)
    other = x.clone()
    other[:, :, :16, :16] = 0
    moved = (planes(made, x) - planes(made, other)).square().sum(1)[0]
    assert moved.argmax() == 0  # the first patch


def test_planes_of_a_small_resnet_by_hand() -> None:
    made = encoder("resnet10_w16", 64)
    x = torch.rand(2, 3, 64, 64)
    net = made.net
    first = net.blocks[:2](torch.relu(net.bn1(net.conv1(x))))  # 16 places a side
    second = net.blocks[2](first)  # 8
    mean = torch.nn.functional.avg_pool2d(second, 3, 1, 1, count_include_pad=False)
    wide = torch.nn.functional.interpolate(mean, 16, mode="bilinear", align_corners=False)
    found = planes(made, x)
    assert found.shape == (2, first.shape[1] + second.shape[1], 16, 16)
    torch.testing.assert_close(found[:, : second.shape[1]], wide / wide.norm(dim=1, keepdim=True))


def test_spread_points_cover_all_as_greedy_choice_promises() -> None:
    points = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    chosen = k_center(points, 12, key=1)
    assert len(set(chosen.tolist())) == 12
    away = torch.cdist(points, points[chosen])
    # Greedy: each came as the farthest from those before it.
    for number in range(1, 12):
        assert away[:, :number].amin(1).argmax() == chosen[number]


def test_an_overlay_keeps_what_is_normal_and_shines_where_it_is_not() -> None:
    pixels = np.full((4, 4, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 9
    found = overlay(pixels, heat, 1, 5)
    assert (found[0] == 100).all() and found[1, 2].tolist() == [222, 204, 116]
    # Lightness rises along the ramp, for those who see no colours.
    assert (np.diff(RAMP @ [0.299, 0.587, 0.114]) > 20).all()


def test_a_network_without_planes_is_told() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    with pytest.raises(NearfarError, match="'flat' has no feature maps"):
        planes(models.Encoder(flat, 4, "flat", "standard", 2), torch.rand(1, 3, 2, 2))
    with pytest.raises(NearfarError, match="'resnet10_w16' are 1 x 1"):
        planes(encoder("resnet10_w16", 16), torch.rand(1, 3, 2, 2))
