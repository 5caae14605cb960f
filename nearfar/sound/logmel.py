"""Log-mel spectrograms: the power of a sound in bands as wide as the ear hears, every 10 ms, in decibels.

Kept as one byte a value, in steps of 0.4 dB from -100 dB, where a sine of full scale has 0 dB. The stretch of
a view in time and its shift in mels are then a box of this picture, as a crop is of an image.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage
from ..core.text import counted

Frames = npt.NDArray[np.uint8]
WINDOW, HOP = 0.025, 0.010  # seconds
LOWEST = 60.0  # Hz, the lower edge of the first band
HIGHEST = 0.975  # of half the rate, the upper edge of the last band
SILENCE, STEP = -100.0, 0.4  # dB: of byte 0, and from one byte to the next
_AT_ONCE = 4096  # frames transformed at a time


def mel(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Turn frequencies into mels.

    Args:
        hertz: any shape.

    Source:
        O'Shaughnessy 1987, as in HTK.
    """
    return 2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700)


@functools.cache
def bands(rate: int, mels: int, fft: int) -> npt.NDArray[np.float32]:
    """Make the triangles by which powers are summed to bands.

    Args:
        rate: samples a second.
        mels: how many bands.
        fft: length of the transform, in samples.

    Returns:
        (fft / 2 + 1, mels) float32. A band narrower than a bin takes the bin nearest to its middle.
    """
    edges = np.linspace(mel(LOWEST), mel(HIGHEST * rate / 2), mels + 2)
    at = mel(np.arange(fft // 2 + 1) * rate / fft)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    made = np.maximum(0, np.minimum((at - low) / (middle - low), (high - at) / (high - middle)))
    empty = np.flatnonzero(made.sum(axis=0) < 0.5)
    made[np.abs(at - middle).argmin(axis=0)[empty], empty] = 1
    return made.astype(np.float32)


def log_mels(samples: npt.NDArray[np.float32], rate: int, mels: int) -> Frames:
    """Compute a spectrogram.

    Args:
        samples: (n,) float32 in [-1, 1].
        rate: samples a second.
        mels: how many bands.

    Returns:
        (frames, mels) uint8; the last frame is filled up with silence.

    Raises:
        BadImage: it is shorter than one window.
    """
    window, hop = round(WINDOW * rate), round(HOP * rate)
    if len(samples) < window:
        raise BadImage(f"too short: {counted(len(samples), 'sample')}, and {window:,} make one frame")
    count = 1 + -(-(len(samples) - window) // hop)
    padded = np.zeros((count - 1) * hop + window, np.float32)
    padded[: len(samples)] = samples
    fft = 1 << (window - 1).bit_length()
    shape = np.hanning(window + 1)[:-1].astype(np.float32)
    weights = bands(rate, mels, fft) * np.float32(4 / shape.sum() ** 2)
    cuts = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    made = np.empty((count, mels), np.uint8)
    for low in range(0, count, _AT_ONCE):
        spectrum = np.fft.rfft(cuts[low : low + _AT_ONCE] * shape, fft)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        decibels = 10 * np.log10(power.astype(np.float32) @ weights + np.float32(1e-10))
        made[low : low + _AT_ONCE] = np.clip(np.rint((decibels - SILENCE) / STEP), 0, 255)
    return made


def trimmed(frames: Frames, trim: float, depth: float) -> Frames:
    """Cut the quiet ends of a spectrogram off, and fill its deepest values up.

    Args:
        frames: (frames, mels) uint8, at least one frame.
        trim: decibels below the loudest frame; frames at the ends that are quieter go.
        depth: decibels below the loudest value; what is less becomes that.

    Returns:
        (fewer frames, mels) uint8.
    """
    loud = frames.max(axis=1).astype(np.float64)
    kept = np.flatnonzero(loud >= loud.max() - trim / STEP)
    return np.maximum(frames[kept[0] : kept[-1] + 1], max(0, int(loud.max() - depth / STEP))).astype(np.uint8)
