"""Bounds what decoding one file may cost, by what the file says, before a pixel is decoded.

Decoders run in threads, in which nothing can stop them: a file that would take minutes is refused instead.
A limit stands where some twenty seconds of one core are reached.
"""

from __future__ import annotations

import math
from typing import Any

from ..core.errors import BadImage

# Of a JPEG. A progressive one has about 10, and each takes as long as the whole picture.
_MAX_SCANS, _USUAL_SCANS = 200, 20
_MAX_SCANNED = 2_000_000_000  # pixels over all scans; of the usual number, any
_SLOW = frozenset({"ppm", "ppm_plain", "bmp_rle"})  # what Pillow decodes in Python
_MAX_SLOW = 1 << 25  # values of such a picture
_SHARED = 1 << 20  # bytes by which the strips or tiles of a TIFF may overlap

# TIFF tags
_COMPRESSION, _STRIP_BYTES, _TILE_WIDTH, _TILE_LENGTH, _TILE_BYTES = 259, 279, 322, 323, 325
_JPEG = 7


def check_effort(image: Any, data: bytes, max_pixels: int) -> None:
    """Refuse an image whose file would take a decoder minutes.

    Args:
        image: Pillow's, of which no pixel is decoded yet.
        data: the file's bytes.
        max_pixels: the most pixels allowed.

    Raises:
        BadImage: it has too many scans, tiles that are much larger than the picture, strips that share bytes,
            or too many pixels for a slow decoder.
    """
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        _check_scans(data.count(b"\xff\xda"), width * height)
    if image.format == "TIFF":
        _check_tiff(image, data, max_pixels)
    if image.tile and image.tile[0].codec_name in _SLOW:
        values = width * height * len(image.getbands())
        if values > _MAX_SLOW:
            kind = {"ppm": "a PPM of an unusual depth", "bmp_rle": "a packed BMP"}
            what = kind.get(image.tile[0].codec_name, "a PPM in plain text")
            raise BadImage(f"over the limit of {_MAX_SLOW:,} values for {what}: {values:,}; save it as PNG")


def _check_scans(scans: int, pixels: int, pieces: int = 1) -> None:
    """Bound the scans of a JPEG, or of all that are the strips or tiles of a TIFF."""
    allowed = pieces * min(_MAX_SCANS, max(_USUAL_SCANS, _MAX_SCANNED // pixels))
    if scans > allowed:
        raise BadImage(f"over the limit of {allowed:,} scans: {scans:,}")


def _check_tiff(image: Any, data: bytes, max_pixels: int) -> None:
    """Bound what is decoded beside the picture, and how often the same bytes are."""
    tags, (width, height) = image.tag_v2, image.size
    high, wide = tags.get(_TILE_LENGTH), tags.get(_TILE_WIDTH)
    if isinstance(high, int) and isinstance(wide, int) and high > 0 and wide > 0:
        pixels = wide * high * math.ceil(width / wide) * math.ceil(height / high)
        if pixels > max(max_pixels, 4 * width * height):
            raise BadImage(f"over the limit of {max_pixels:,} pixels in its tiles: {wide} x {high} each")
    sizes = tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES) or ()
    pieces = sizes if isinstance(sizes, tuple) else (sizes,)
    if sum(pieces) > len(data) + _SHARED:
        raise BadImage("broken: its strips share their bytes")
    if tags.get(_COMPRESSION) == _JPEG:
        _check_scans(data.count(b"\xff\xda"), width * height, max(1, len(pieces)))
