"""The draws: named, not remembered; torchvision's crops; the chances that the settings say."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.images import views
from nearfar.images.view_settings import Views

FULL = Views(blur=0.5, solarize=0.2)


def many(
    n: int = 20000, settings: Views = FULL, high: int = 32, wide: int = 32, size: int = 224
) -> views.AugmentationParams:
    return views.draw(settings, rng.fold(3, "views"), np.arange(n), np.full(n, high), np.full(n, wide), size)


def same(a: views.AugmentationParams, b: views.AugmentationParams) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)
    )


@budget(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 499), min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_a_row_depends_on_its_image_alone(rows: list[int], key: int) -> None:
    shapes = np.random.default_rng(0).integers(1, 300, (500, 2))
    whole = views.draw(FULL, key, np.arange(500), shapes[:, 0], shapes[:, 1], 96)
    part = views.draw(FULL, key, np.array(rows), shapes[rows, 0], shapes[rows, 1], 96)
    assert same(whole.take(np.array(rows)), part)


def test_a_setting_moves_only_its_own_quantity() -> None:
    other = many(settings=dataclasses.replace(FULL, jitter=0.3, blur=0.1, crop_min=0.5))
    for name in ("flip", "order", "factors", "grayscale", "solarize"):
        assert np.array_equal(getattr(many(), name), getattr(other, name))
    assert not np.array_equal(many().box, other.box)


def test_two_keys_draw_apart() -> None:
    n = np.full(1000, 32)
    first, second = (views.draw(FULL, rng.fold(0, "view", k), np.arange(1000), n, n, 32) for k in (0, 1))
    assert (first.box == second.box).all(axis=1).mean() < 0.02


@pytest.mark.parametrize("high,wide", [(32, 32), (20, 50), (333, 500)])
def test_crops_are_spread_as_torchvision_spreads_them(high: int, wide: int) -> None:
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(3, high, wide)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(6000)]
    theirs, ours = np.array(params, float), many(6000, high=high, wide=wide).box.astype(float)
    area, aspect = (lambda b: b[:, 2] * b[:, 3]), (lambda b: b[:, 3] / b[:, 2])
    for share in (area, aspect, lambda b: b[:, 0], lambda b: b[:, 1]):
        a, b = np.sort(share(theirs)), np.sort(share(ours))
        # The distance of Kolmogorov and Smirnov between 6,000 draws each; 0.036 is the 0.1 % point.
        grid = np.concatenate([a, b])
        assert abs(np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")).max() / 6000 < 0.036


@budget(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_crops_stay_inside_whatever_the_shape(high: int, wide: int, key: int) -> None:
    n = np.full(64, 1)
    for settings in (Views(), Views(crop_min=0.01, crop_max=0.02), Views(crop_min=1.0)):
        box = views.draw(settings, key, np.arange(64), n * high, n * wide, 32).box
        assert (box[:, :2] >= 0).all() and (box[:, 2:] >= 1).all()
        assert (box[:, 0] + box[:, 2] <= high).all() and (box[:, 1] + box[:, 3] <= wide).all()


def test_an_image_that_no_crop_fits_gives_its_centre() -> None:
    box = many(5, high=10, wide=1000, settings=Views(crop_min=1.0)).box
    assert box.tolist() == [[0, (1000 - 13) // 2, 10, 13]] * 5


def test_chances_and_ranges_are_those_of_the_settings() -> None:
    draws = many()
    for name, chance in (("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("solarize", 0.2)):
        assert abs(getattr(draws, name).mean() - chance) < 0.015, name
    assert abs((draws.sigma > 0).mean() - 0.5) < 0.015
    sigma = draws.sigma[draws.sigma > 0]
    assert sigma.min() >= 0.1 and sigma.max() <= 2 and abs(sigma.mean() - 1.05) < 0.02
    low, high = np.float32([0.6, 0.6, 0.6, -0.1]), np.float32([1.4, 1.4, 1.4, 0.1])
    assert (draws.factors >= low - 1e-6).all() and (draws.factors <= high + 1e-6).all()
    assert np.allclose(draws.factors.mean(0), (low + high) / 2, atol=0.008)
    counts = np.unique(draws.order, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and abs(counts / 20000 - 1 / 24).max() < 0.006
    drawn = (draws.flip, draws.jitter, draws.order[:, 0], draws.factors, draws.grayscale, draws.solarize)
    table = np.column_stack([draws.box[:, 0], *drawn])
    # top and left go together, since both depend on the crop's size
    apart = abs(np.corrcoef(table.T.astype(float)) - np.eye(table.shape[1]))
    assert apart.max() < 0.035  # no quantity follows another


def test_nothing_asked_is_nothing_done() -> None:
    off = Views(flip=0, jitter=0, grayscale=0, crop_min=1, brightness=0, contrast=0, saturation=0, hue=0)
    draws = many(500, settings=off)
    assert (draws.box == [0, 0, 32, 32]).all() and (draws.factors == [1, 1, 1, 0]).all()
    assert not any(
        getattr(draws, name).any() for name in ("flip", "jitter", "grayscale", "sigma", "solarize")
    )
    on = many(500, settings=Views(flip=1, jitter=1, grayscale=1, blur=1, solarize=1))
    assert all(getattr(on, name).all() for name in ("flip", "jitter", "grayscale", "sigma", "solarize"))


def test_a_view_too_small_for_a_kernel_is_not_blurred() -> None:
    assert (views.blur_radius(19), views.blur_radius(32), views.blur_radius(224)) == (0, 1, 11)
    assert not many(100, size=19, settings=Views(blur=1)).sigma.any()


def test_crossed_crop_bounds_are_refused() -> None:
    with pytest.raises(NearfarError, match=r"--crop-min 0\.5 is above --crop-max 0\.4"):
        many(1, settings=Views(crop_min=0.5, crop_max=0.4))


def test_draws_are_frozen_for_good() -> None:
    """A changed draw would change every run that resumes, and every published figure."""
    draws = views.draw(FULL, rng.fold(0, "golden"), [0, 7, 49999], [32, 50, 375], [32, 20, 500], 224)
    assert draws.box.tolist() == GOLDEN["box"]
    assert draws.order.tolist() == GOLDEN["order"]
    assert np.allclose(draws.factors, GOLDEN["factors"], atol=1e-6)
    assert np.allclose(draws.sigma, GOLDEN["sigma"], atol=1e-6)
    for name in ("flip", "jitter", "grayscale", "solarize"):
        assert getattr(draws, name).tolist() == GOLDEN[name]


def test_the_centre_is_a_square_share_of_the_short_side() -> None:
    draws = views.centre(views.Preprocess(size=56, crop=0.875), [64, 1, 33], [96, 9, 20])
    assert draws.box.tolist() == [[4, 20, 56, 56], [0, 4, 1, 1], [7, 1, 18, 18]]
    assert len(draws) == 3 and not draws.flip.any() and not draws.jitter.any()
    assert views.Preprocess.of(64).crop == 1.0 and views.Preprocess.of(224).crop == 0.875


GOLDEN = {
    "box": [[4, 7, 13, 16], [22, 0, 20, 20], [57, 53, 279, 211]],
    "order": [[3, 1, 2, 0], [1, 3, 0, 2], [2, 1, 3, 0]],
    "factors": [
        [1.1089211, 1.2008934, 0.8168052, 0.0338326],
        [0.6963236, 1.1046336, 0.7577865, 0.0318343],
        [0.9893618, 1.0902319, 1.0383401, 0.0578637],
    ],
    "sigma": [0.0, 1.5870405, 1.2391729],
    "flip": [True, True, False],
    "jitter": [True, False, False],
    "grayscale": [False, False, True],
    "solarize": [False, False, True],
}
