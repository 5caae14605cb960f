"""Draws a spectrogram: time to the right, high sounds above, from silence in blue to loud in yellow."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .logmel import Frames

# Five colours between which it is blended, from silence to the loudest value; lightness rises evenly.
COLOURS = np.array([(13, 12, 44), (84, 20, 110), (190, 55, 84), (249, 142, 9), (252, 253, 191)], np.float64)
DEPTH = 125  # bytes, of 0.4 dB each, from the loudest value down to the first colour
QUALITY = 85  # as JPEG counts it


def picture(frames: Frames, side: int) -> bytes:
    """Draw a spectrogram.

    Args:
        frames: (frames, mels) uint8.
        side: width in pixels; the height is three quarters of it.

    Returns:
        A JPEG.
    """
    level = np.clip((frames.T[::-1].astype(np.float64) - frames.max() + DEPTH) / DEPTH, 0, 1)
    anchors = np.linspace(0, 1, len(COLOURS))
    pixels = np.stack([np.interp(level, anchors, COLOURS[:, c]) for c in range(3)], axis=2)
    size = (max(1, side), max(1, side * 3 // 4))
    image = Image.fromarray(np.rint(pixels).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
