"""Sound becomes log-mel frames, and frames become views: against loops and closed forms."""

from __future__ import annotations

import numpy as np
import small_sounds
import torch

from nearfar.sound import logmel, views
from nearfar.sound.mfcc import MFCC
from nearfar.sound.view_settings import SoundPreprocess, SoundViews


def test_a_sine_lies_in_its_band_at_its_level() -> None:
    rate, mels = 16_000, 40
    edges = np.linspace(logmel.mel(60), logmel.mel(7800), mels + 2)
    for band in (5, 20, 35):
        hertz = 700 * (10 ** (edges[band + 1] / 2595) - 1)
        tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
        found = logmel.log_mels(tone, rate, mels)
        assert found.shape == (99, mels) and (found.argmax(axis=1) == band).all()
        found = logmel.log_mels(tone / 10, rate, mels)[:98, band].astype(float)
        assert np.abs(logmel.SILENCE + logmel.STEP * found + 20).max() < 4  # spread over a few bins
        quiet = logmel.log_mels(tone / 100, rate, mels)[:98, band].astype(float)
        assert np.abs((found - quiet) * logmel.STEP - 20).max() < 1


def test_many_frames_at_once_are_as_few(monkeypatch) -> None:
    tone = small_sounds.vowel("ee", 150, 1.0)
    whole = logmel.log_mels(tone, 8000, 16)
    monkeypatch.setattr(logmel, "_AT_ONCE", 7)
    assert np.array_equal(logmel.log_mels(tone, 8000, 16), whole)


def slow_view(frames: np.ndarray, start: float, span: float, low: float, step: float, shape) -> np.ndarray:
    """The box of a spectrogram, place by place."""
    size, mels = shape
    taps = max(1, int(np.ceil(span / size)))
    at = lambda x, count: min(max(int(x), 0), count - 1)  # noqa: E731
    found = np.zeros(shape)
    for i in range(size):
        for tap in range(taps):
            x = start + (i + (tap + 0.5) / taps) * span / size - 0.5
            for j in range(mels):
                y = low + j * step
                for dx, dy in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    wx, wy = x - np.floor(x), y - np.floor(y)
                    weight = (wx if dx else 1 - wx) * (wy if dy else 1 - wy)
                    value = frames[at(np.floor(x) + dx, len(frames)), at(np.floor(y) + dy, frames.shape[1])]
                    found[i, j] += weight * value / taps
    return found


def test_a_view_is_the_box_of_the_loops() -> None:
    draw = np.random.default_rng(0)
    clips = [draw.integers(0, 256, (length, 9)).astype(np.uint8) for length in (5, 40, 17)]
    block, how = views.collate(clips), SoundViews(mels=9, floor=0.0, masks=0.0, tilt=0.0, level="nothing")
    drawn = views.draw(how, 3, [4, 5, 6], [5, 40, 17], 12)
    made = views.apply(block, drawn, how, 12)
    assert made.shape == (3, 1, 9, 12)
    for k, frames in enumerate(clips):
        box = (float(x[k]) for x in (drawn.start, drawn.span, drawn.low, drawn.step))
        slow = slow_view(frames, *box, (12, 9)) * logmel.STEP / 20
        assert np.abs(made[k, 0].numpy().T - slow).max() < 1e-4


def test_a_view_depends_on_its_own_clip_alone() -> None:
    draw = np.random.default_rng(1)
    clips = [draw.integers(0, 256, (length, 16)).astype(np.uint8) for length in (9, 90, 30, 3)]
    how, lengths = SoundViews(mels=16), np.array([9, 90, 30, 3])
    whole = views.apply(views.collate(clips), views.draw(how, 7, range(4), lengths, 20), how, 20)
    for k in range(4):
        alone = views.draw(how, 7, [k], lengths[k : k + 1], 20)
        assert torch.equal(views.apply(views.collate(clips[k : k + 1]), alone, how, 20)[0], whole[k])
    block = views.collate(clips)
    taken = block.take(np.array([2, 0]))
    one = views.apply(taken, views.centre(taken.length.numpy(), 20), how, 20)
    all_of = views.apply(block, views.centre(lengths, 20), how, 20)
    assert torch.equal(one, all_of[[2, 0]])


def test_levels_noise_and_masks_do_what_their_names_say() -> None:
    frames = [np.full((30, 8), 100, np.uint8) + np.arange(8, dtype=np.uint8) * 10]
    block = views.collate(frames)
    plain = views.apply(block, views.centre([30], 10), SoundPreprocess(10, mels=8, level="nothing"), 10)
    assert np.allclose(plain[0, 0, :, 0], (100 + 10 * np.arange(8)) * logmel.STEP / 20)
    assert (
        views.apply(block, views.centre([30], 10), SoundPreprocess(10, mels=8, level="bands"), 10).abs().max()
        < 1e-5
    )
    steep = views.apply(block, views.centre([30], 10), SoundPreprocess(10, mels=8, level="all"), 10)
    assert abs(steep.mean()) < 1e-5 and steep.std() > 0.1
    noisy = SoundViews(mels=8, floor=1.0, masks=0.0, shift=0.0, warp=0.0, tilt=0.0, level="nothing")
    louder = views.apply(block, views.draw(noisy, 1, [0], [30], 10), noisy, 10) - plain
    assert (louder > 0).all() and louder[0, 0, 0, 0] > louder[0, 0, 7, 0]
    masked = SoundViews(mels=8, floor=0.0, masks=1.0, tilt=0.0, level="nothing")
    many = views.apply(
        views.collate(frames * 200), views.draw(masked, 1, range(200), [30] * 200, 10), masked, 10
    )
    assert 0.4 < (many == 0).float().mean() < 0.8  # of each side a half in the mean


def test_quiet_ends_are_cut_off_and_depths_filled_up() -> None:
    frames = np.array([[50, 40], [100, 90], [180, 20], [60, 170], [90, 90], [199, 0], [10, 5]], np.uint8)
    made = logmel.trimmed(frames, trim=40.0, depth=60.0)  # 100 and 150 steps below 199
    assert np.array_equal(made, [[100, 90], [180, 49], [60, 170], [90, 90], [199, 49]])
    assert np.array_equal(logmel.trimmed(frames, 100.0, 100.0), frames)


def test_mfcc_are_those_of_the_cosine_transform() -> None:
    from scipy.fft import dct

    x = torch.randn(3, 1, 24, 40, dtype=torch.float64)
    slow = dct(x.numpy()[:, 0], axis=1, norm="ortho")[:, :13]
    found = MFCC(course=False)(x.float()).numpy()
    assert np.allclose(found, np.concatenate([slow.mean(2), slow.std(2)], axis=1), atol=1e-5)
    course = MFCC(course=True)(x.float()).numpy().reshape(3, 13, 20)
    assert np.allclose(course, (slow - slow.mean(2, keepdims=True)).reshape(3, 13, 20, 2).mean(3), atol=1e-5)
