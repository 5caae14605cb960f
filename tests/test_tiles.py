"""Tiles of an image, and the methods that learn where they were: what would give their places away."""

from __future__ import annotations

import math
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small import given, pictures, small, total

from nearfar.core import rng
from nearfar.core.config import build
from nearfar.core.errors import NearfarError
from nearfar.methods import jigsaw, relative_position, tiles
from nearfar.methods.base import Batch
from nearfar.training import optim
from nearfar.training.settings import Training


def whole(x: torch.Tensor, key: int = 0) -> Batch:
    return Batch([x], torch.arange(len(x)), None, key)


def test_a_tile_lies_in_its_cell_at_a_place_named_by_image_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "standardised", lambda x: x)
    place = torch.arange(32 * 32.0).view(1, 1, 32, 32).expand(6, 3, 32, 32)
    found = tiles.tiles(whole(place), place, 2, 0.25)
    assert found.shape == (6, 4, 3, 12, 12)
    for number in range(4):
        top, left = found[:, number, 0, 0, 0] // 32, found[:, number, 0, 0, 0] % 32
        assert ((top - 16 * (number // 2)).clamp(0, 4) == top - 16 * (number // 2)).all()
        assert ((left - 16 * (number % 2)).clamp(0, 4) == left - 16 * (number % 2)).all()
        assert (found[:, number, 0, -1, -1] - found[:, number, 0, 0, 0] == 11 * 33).all()
    assert len(found[:, 0, 0, 0, 0].unique()) > 1  # another place for another image,
    assert not torch.equal(found, tiles.tiles(whole(place, 1), place, 2, 0.25))  # and step
    part = whole(place).part(slice(2, 4))
    assert torch.equal(tiles.tiles(part, part.views[0], 2, 0.25), found[2:4])
    with pytest.raises(NearfarError, match="a tile of 3 px is too small"):
        tiles.tiles(whole(place), place, 8, 0.25)


def test_every_tile_has_the_same_mean_and_deviation() -> None:
    x = pictures(4, 32).views[0] * torch.linspace(0.2, 1, 32)
    found = tiles.tiles(whole(x), x, 3, 0.25).flatten(2)
    torch.testing.assert_close(found.mean(2), torch.full((4, 9), 0.5))
    torch.testing.assert_close(found.std(2, correction=0), torch.full((4, 9), 0.25), rtol=0.1, atol=0)
    assert torch.isfinite(tiles.standardised(torch.ones(1, 3, 4, 4))).all()


def test_a_gap_hides_where_lines_continue() -> None:
    """Noise that is alike over one pixel: the edges of neighbours agree only where nothing is left out."""
    noise = torch.rand(40, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.avg_pool2d(noise, 2, 1)

    def agreement(gap: float) -> float:
        cut = tiles.tiles(whole(x), x, 2, gap)
        right, left = cut[:, 0, :, :, -1].flatten(), cut[:, 1, :, :, 0].flatten()
        return float(torch.corrcoef(torch.stack([right, left]))[0, 1])

    assert agreement(0.0) > 0.4 and abs(agreement(0.25)) < 0.15


def test_as_many_orders_differ_as_can_be_asked_for() -> None:
    u = rng.uniform(rng.fold(0, "permutations", 9), np.arange(tiles.MOST_CANDIDATES), 9)
    differ = len(np.unique(u.argsort(1), axis=0))
    with pytest.raises(NearfarError, match="--permutations is .*; it must be from 2 to"):
        build(jigsaw.Config, {"permutations": differ + 1})


@pytest.mark.parametrize(("count", "least"), [(64, 7), (100, 6), (1000, 5)])
def test_orders_differ_in_many_places(count: int, least: int) -> None:
    found = tiles.permutations(9, count)
    assert found.shape == (count, 9) and (np.sort(found, 1) == np.arange(9)).all()
    differ = (found[:, None] != found[None]).sum(2) + 9 * np.eye(count, dtype=int)
    assert differ.min() == least
    assert tiles.permutations(4, 100).shape == (24, 4)
    few = tiles.permutations(4, 4)  # of four tiles, as many orders differ everywhere
    assert (few[:, None] != few).sum(2)[~np.eye(4, dtype=bool)].min() == 4


def learnt(image: torch.Tensor, change: Callable[[], None] | None = None) -> float:
    """Train jigsaw on a (16, 16) image with noise, and give the share of its 16 orders that it tells."""
    module = small("jigsaw", gap=0.25)
    if change is not None:
        change()
    maker = optim.optimizer(Training(optimizer="adamw", lr=1e-2), module)
    noise = torch.Generator().manual_seed(0)
    shares = []
    for step in range(40):
        x = (image + 0.01 * torch.rand(32, 3, 16, 16, generator=noise)).expand(32, 3, 16, 16)
        found = module(whole(x, step))
        maker.zero_grad()
        total(found).backward()
        maker.step()
        shares.append(float(module.metrics(found.watched)["order_accuracy"]))
    return float(np.mean(shares[-10:]))


def test_brightness_gives_the_order_away_unless_tiles_are_standardised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Images get lighter from the top left on."""
    ramp = torch.linspace(0, 0.4, 16)
    image = ramp + 2 * ramp[:, None]
    assert learnt(image) < 0.2
    assert learnt(image, lambda: monkeypatch.setattr(tiles, "standardised", lambda x: x)) > 0.7


def test_a_pattern_of_the_camera_gives_the_order_away_unless_tiles_are_jittered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It repeats every three pixels, and each cell begins at another of the three; a tile moves by 0 to 2."""
    phase = 2 * math.pi / 3 * torch.arange(16)
    image = 0.5 + 0.2 * torch.sin(phase) + 0.2 * torch.sin(phase)[:, None]
    still = types.SimpleNamespace(
        fold=rng.fold, uniform=lambda key, rows, count: np.zeros((len(rows), count))
    )
    assert learnt(image) < 0.2
    assert learnt(image, lambda: monkeypatch.setattr(tiles, "rng", still)) > 0.7


def test_jigsaw_shuffles_tiles_and_says_how() -> None:
    module, seen = small("jigsaw"), []
    module.f.register_forward_pre_hook(lambda _, words: seen.append(words[0]))
    batch = given(module, 5)
    logits, y = module.embed(batch)
    cut = tiles.tiles(batch, batch.views[0], 2, 0.25)
    shown = seen[0].unflatten(0, (5, 4))
    for image, order in enumerate(y.tolist()):
        assert torch.equal(shown[image], cut[image, module.orders[order]])
    assert logits.shape == (5, 16) and len(set(y.tolist())) > 1
    assert type(module).expects(module.config).chance == 1 / 16


def test_relative_position_asks_of_every_pair_of_neighbours() -> None:
    found = relative_position.pairs(3)
    assert len(found) == 40 and sorted(y for first, _, y in found if first == 4) == list(range(8))
    assert [second for first, second, _ in found if first == 4] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert len(relative_position.pairs(2)) == 12
    module = small("relative_position")
    assert type(module).expects(module.config).chance == pytest.approx(2 / 12)
    (logits,) = module.embed(given(module, 3))
    assert logits.shape == (3, 12, 8)
