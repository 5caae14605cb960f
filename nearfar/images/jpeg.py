"""Decodes JPEG files with libjpeg-turbo's own interface: Pillow's pixels, without its copies of them.

Pillow decodes in pieces into four bytes a pixel, takes one out, and joins the pieces: on small photographs
that costs as much as the decoding. The library below is the same, so the pixels are too (tests/test_jpeg.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import simplejpeg
except ImportError:  # no wheel for this system: Pillow decodes all
    simplejpeg = None

VERSION = "" if simplejpeg is None else f"simplejpeg {simplejpeg.__version__}"
_MODES = frozenset({"RGB", "L"})  # of four colours, Pillow knows which are inverted


def decode(image: Any, data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG file to the sides that Pillow's draft chose.

    Args:
        image: Pillow's, of which the header is read and `draft` was called, or not.
        data: the whole file.

    Returns:
        (H, W, 3) uint8; or None, where Pillow is to decode: other formats and colours, a file that is broken
        in any way, so that one decoder alone says what is wrong with it, and where there is no simplejpeg.
    """
    if simplejpeg is None or image.format != "JPEG" or image.mode not in _MODES:
        return None
    width, height = image.size
    (factor, *_) = image.decoderconfig or (1,)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=height, min_width=width, min_factor=float(factor)
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None
