"""Corruptions with known answers: what they do to a pixel, that more is worse, and that draws go by name."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.data import cache
from nearfar.data.dataset import Subset
from nearfar.data.sources import open_source
from nearfar.evaluation import corrupted
from nearfar.evaluation.corrupted import corrupted_accuracy
from nearfar.evaluation.corruptions import NAMES, STRENGTHS, corrupt


def photos(n, side=32, wide=None, seed=0):
    """Smooth colours with some hard edges: something that every corruption changes."""
    draw = np.random.default_rng(seed)
    wide = wide or side
    made = np.empty((n, side, wide, 3), np.uint8)
    for k in range(n):
        coarse = Image.fromarray(draw.integers(20, 236, (4, 4, 3), dtype=np.uint8))
        made[k] = np.asarray(coarse.resize((wide, side), Image.Resampling.BICUBIC))
        top, left = draw.integers(0, (side // 2, wide // 2))
        made[k, top : top + side // 3, left : left + wide // 4] = draw.integers(0, 256, 3)
    return made


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean((1, 2, 3)))


@pytest.mark.parametrize("side", [32, 112])
@pytest.mark.parametrize("name", NAMES)
def test_damage_grows_with_strength(name, side):
    images = photos(8, side)
    kept = images.copy()
    found = []
    for strength in STRENGTHS:
        spoilt = corrupt(images, name, strength, key=1)
        assert spoilt.shape == images.shape and spoilt.dtype == np.uint8
        found.append(psnr(images, spoilt).mean())
    assert all(weak > strong for weak, strong in zip(found, found[1:], strict=False)), found
    assert 12 < found[0] < 50 and found[-1] > 6  # never nothing, never all
    assert (images == kept).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_spoilt_by_its_name_and_row_alone(name):
    images = photos(5, 20, 28)
    whole = corrupt(images, name, 3, key=7)
    rows = np.array([3, 0, 4])
    assert (corrupt(images[rows], name, 3, key=7, rows=rows) == whole[rows]).all()
    assert (corrupt(images[2:], name, 3, key=7, rows=np.arange(2, 5)) == whole[2:]).all()


@pytest.mark.parametrize(
    "name", ["gaussian-noise", "shot-noise", "impulse-noise", "glass-blur", "motion-blur", "fog", "elastic"]
)
def test_draws_differ_by_row_and_by_key(name):
    images = photos(1).repeat(2, axis=0)
    first = corrupt(images, name, 4, key=1)
    assert (first[0] != first[1]).any()
    assert (first != corrupt(images, name, 4, key=2)).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (9, 40)])
def test_every_shape_is_kept(name, shape):
    images = np.random.default_rng(0).integers(0, 256, (1, *shape, 3), dtype=np.uint8)
    assert corrupt(images, name, 5, key=0).shape == images.shape


def test_gaussian_noise_is_normal_with_the_spread_of_its_side():
    grey = np.full((4, 224, 224, 3), 128, np.uint8)
    noise = (corrupt(grey, "gaussian-noise", 1, key=0).astype(float) - 128) / 255
    assert noise.std() == pytest.approx(0.08, rel=0.01)
    assert abs(noise.mean()) < 1e-3
    small = (corrupt(grey[:, :32, :32], "gaussian-noise", 1, key=0).astype(float) - 128) / 255
    assert small.std() == pytest.approx(0.03, rel=0.05)
    # Half way in between, as logarithms go, half way in strength.
    middle = (corrupt(grey[:, :85, :85], "gaussian-noise", 1, key=0).astype(float) - 128) / 255
    assert middle.std() == pytest.approx((0.08 * 0.03) ** 0.5, rel=0.03)


def test_shot_noise_varies_as_the_light_does():
    for value in (50, 120):  # dark enough for none to be cut off at white
        grey = np.full((4, 224, 224, 3), value, np.uint8)
        counts = corrupt(grey, "shot-noise", 1, key=0).astype(float) / 255
        assert counts.mean() == pytest.approx(value / 255, rel=0.02)
        assert counts.var() == pytest.approx(value / 255 / 60, rel=0.06)


def test_impulse_noise_sets_its_share_of_values_to_black_and_white():
    grey = np.full((4, 224, 224, 3), 128, np.uint8)
    spoilt = corrupt(grey, "impulse-noise", 5, key=0)
    assert set(np.unique(spoilt)) == {0, 128, 255}
    for value in (0, 255):
        assert (spoilt == value).mean() == pytest.approx(0.27 / 2, rel=0.03)


def test_brightness_adds():
    images = photos(3, 224)
    added = corrupt(images, "brightness", 3, key=0).astype(int)
    assert np.abs(added - np.minimum(255, np.rint(images + 0.3 * 255))).max() <= 1


def test_contrast_pulls_towards_the_mean_of_each_colour():
    images = photos(3, 224)
    mean = images.mean((1, 2), keepdims=True)
    assert np.abs(corrupt(images, "contrast", 4, key=0) - (mean + 0.1 * (images - mean))).max() <= 0.51


def test_jpeg_is_pillows_own():
    image = photos(1, 224)[0]
    for strength, quality in ((1, 25), (5, 7)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        assert (corrupt(image[None], "jpeg", strength, key=0)[0] == np.asarray(Image.open(file))).all()


def test_pixelate_makes_one_pixel_of_several():
    image = Image.fromarray(photos(1, 224)[0])
    small = image.resize((132, 132), Image.Resampling.BOX)  # 224 / 1.7
    known = np.asarray(small.resize((224, 224), Image.Resampling.NEAREST))
    assert (corrupt(np.asarray(image)[None], "pixelate", 1, key=0)[0] == known).all()


@pytest.mark.parametrize("name", ["defocus-blur", "motion-blur", "zoom-blur", "glass-blur", "elastic"])
def test_blurs_and_shifts_leave_an_even_image_alone(name):
    grey = np.full((1, 40, 40, 3), 77, np.uint8)
    assert np.abs(corrupt(grey, name, 5, key=0).astype(int) - 77).max() <= 1


def extent(name, strength):
    """How far a white point in the dark spreads, down and to the right, in pixels."""
    point = np.zeros((1, 225, 225, 3), np.uint8)
    point[0, 112, 112] = 255
    down, right = np.nonzero(corrupt(point, name, strength, key=0)[0, :, :, 0])
    assert abs(down.mean() - 112) < 0.6 and abs(right.mean() - 112) < 0.6
    return int(np.ptp(down)), int(np.ptp(right))


def test_defocus_spreads_a_point_over_a_disc_and_motion_over_a_line():
    down, right = extent("defocus-blur", 1)
    assert down == right and 6 <= down <= 8  # a radius of 3 px
    down, right = extent("motion-blur", 1)
    assert down <= right + 1 and 6 <= np.hypot(down, right) <= 12  # a length of 8 px


def test_unknown_words_are_said():
    with pytest.raises(NearfarError, match="did you mean fog"):
        corrupt(photos(1), "fogg", 1, key=0)
    with pytest.raises(NearfarError, match="strength 6"):
        corrupt(photos(1), "fog", 6, key=0)


def stored(images):
    labels = ["dark" if k % 2 else "light" for k in range(len(images))]
    source = open_source((np.stack(images), labels), labels=True)
    return cache.load(source, short_side=None, max_pixels=10**6, max_bad=0.0, threads=1)


def by_shade(seen, middle=128):
    """A classifier that looks at the mean shade: 0 dark, 1 light."""
    block = seen.gather(np.arange(len(seen)))
    return np.array([int(block.image(k).mean() > middle) for k in range(len(seen))])


def test_robustness_counts_what_is_right():
    images = photos(40, 16) // 4
    images[::2] += 190
    store = stored(images)
    made = corrupted_accuracy(
        by_shade, store, store.labels, seed=0, names=("contrast", "brightness", "jpeg"), sample=30
    )
    assert made.images == 30 and made.clean == 1.0
    # Contrast and JPEG keep the mean, and nothing that dark is lifted over the middle by brightness.
    assert made.accuracy == dict.fromkeys(("contrast", "brightness", "jpeg"), (1.0,) * 5)
    # Asked whether an image is lighter than a little above the dark ones, brightness fools it.
    fooled = corrupted_accuracy(
        lambda seen: by_shade(seen, 70), store, store.labels, seed=0, names=("contrast", "brightness")
    )
    assert fooled.accuracy["brightness"][4] < fooled.accuracy["brightness"][0] == 1.0
    assert fooled.mean == pytest.approx(np.mean(list(fooled.accuracy.values())))
    assert fooled.relative == fooled.mean / fooled.clean < 1
    plain = json.loads(json.dumps(made.to_json()))
    assert list(plain) == ["clean", "mean", "relative", "accuracy", "images"]


def test_robustness_shows_the_very_images_that_corrupt_makes():
    images = list(photos(12, 16))
    store, seen = stored(images), []

    def note(given):
        block = given.gather(np.arange(len(given)))
        seen.append(np.stack([block.image(k) for k in range(len(given))]))
        return np.zeros(len(given), np.int64)

    made = corrupted_accuracy(note, store, np.zeros(12, np.int64), seed=4, names=("fog",))
    assert made.clean == made.mean == 1.0
    assert (seen[0] == np.stack(images)).all()
    for strength in STRENGTHS:
        known = corrupt(np.stack(images), "fog", strength, rng.fold(4, "corruption"))
        assert (seen[strength] == known).all()


def test_the_sample_is_bounded_and_the_draws_go_with_the_image(monkeypatch):
    images = list(photos(12, 16))
    store = stored(images)
    monkeypatch.setattr(corrupted, "MAX_PIXELS", 5 * 16 * 16)
    made = corrupted_accuracy(by_shade, store, store.labels, seed=0, names=("fog",))
    assert made.images == 5
    monkeypatch.setattr(corrupted, "MAX_PIXELS", 1)
    assert corrupted_accuracy(by_shade, store, store.labels, seed=0, names=("fog",)).images == 1
    # A part of a store will do for a store.
    part = Subset(store, np.arange(3))
    assert corrupted_accuracy(by_shade, part, part.labels, seed=0, names=("fog",)).images == 1
