"""Turns an image file into plain RGB pixels, or says in a few words why it cannot.

Nothing in a file is trusted: its name does not decide its format, its header is held against the pixel
limit before a pixel is decoded, and whatever goes wrong inside becomes one `BadImage` with a reason.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from ..core.errors import BadImage
from . import deep_colour, jpeg
from .colour_modes import has_unsaid_channel, to_rgb
from .effort import check_effort
from .files import open_file, read
from .header import identify, mode_of, quiet, reason
from .value_range import Range, Seen, is_deep, see_image

__all__ = [
    "DECODERS",
    "Picture",
    "Pixels",
    "decode",
    "picture",
    "read",
    "reduced",
    "remarks",
    "see",
    "shrink",
]

Pixels = npt.NDArray[np.uint8]

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}  # both antialiased


@dataclass(frozen=True)
class Reducing:
    """How a large image is reduced: by which of `FILTERS`, and whether both sides are, each by itself."""

    filter: str = "bicubic"
    squash: bool = False


USUAL = Reducing()


DECODERS = f"Pillow {PIL.__version__} {jpeg.VERSION}".strip()  # another version may round otherwise

_LARGE_PIXELS = 1 << 24
_large = threading.Lock()  # held while a larger image is decoded, so that only one is in memory at a time


@dataclass(frozen=True)
class Picture:
    """One decoded image: its pixels, and what the file said of itself (format, mode, stored sides)."""

    pixels: Pixels
    format: str
    mode: str
    width: int
    height: int


def _check_png(data: bytes) -> None:
    """Hold every critical chunk of a PNG against its checksum, which Pillow skips for the pixels."""
    at, kind = 8, b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise BadImage("truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise BadImage("truncated")
        (stored,) = struct.unpack_from(">I", data, at + 8 + length)
        if kind[:1].isupper() and zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]) != stored:
            raise BadImage(f"broken: wrong checksum in {kind.decode('ascii', 'replace')}")
        at += 12 + length


def _significant(data: bytes) -> int:
    """Read how many bits of a PNG's samples are significant, or 0 where it does not say."""
    at = data.find(b"sBIT", 8, max(8, data.find(b"IDAT")))
    return 0 if at < 0 else data[at + 4]


def see(data: bytes | Path, *, max_pixels: int) -> Seen | None:
    """Look at the values of an image of more than 8 bits; of other images only the header is read.

    Args:
        data: the file's bytes, or its path.
        max_pixels: the most pixels allowed.

    Returns:
        What was seen, or None for an image of 8 bits.

    Raises:
        BadImage: it cannot be read.
    """
    with quiet:
        with open_file(data, max_pixels) if isinstance(data, Path) else io.BytesIO(data) as file:
            image = identify(file, max_pixels)
            if not is_deep(image) and not deep_colour.is_deep_colour(image):
                return None
            file.seek(0)
            content = file.read()
        image = identify(io.BytesIO(content), max_pixels)
        check_effort(image, content, max_pixels)
        try:
            with _large if image.width * image.height > _LARGE_PIXELS else nullcontext():
                values = None
                if deep_colour.is_deep_colour(image):
                    values = deep_colour.halves(image, identify(io.BytesIO(content), max_pixels))
                image.load()
                return see_image(image, _significant(content) if image.format == "PNG" else 0, values)
        except Exception as error:
            raise BadImage(reason(error)) from None


def remarks(data: bytes, *, max_pixels: int) -> list[str]:
    """Say what of an image file is not used, in a few words each.

    Args:
        data: the file's bytes.
        max_pixels: the most pixels allowed.

    Returns:
        Of pages, channels, bits and values that were not measured, what is left out; often nothing.

    Raises:
        BadImage: its header cannot be read.
    """
    found = []
    with quiet:
        image = identify(io.BytesIO(data), max_pixels)
        deep = is_deep(image) or deep_colour.is_deep_colour(image)
        with suppress(Exception):  # a broken later page does not spoil the first
            image.seek(1)  # its n_frames would walk through all, of which a hostile file has millions
            found.append("first page or frame")
        with suppress(Exception):
            image.seek(0)
        tags = getattr(image, "tag_v2", {})
        used = len(image.getbands()) - has_unsaid_channel(image)
        if tags.get(277, 0) > used:
            found.append(f"first {used} channels" if used > 1 else "first channel")
        bits = tags.get(258, (8,)) if tags else (data[24],) if image.format == "PNG" else (8,)
        if max(bits) > 8 and not deep:
            found.append("upper 8 bits of each channel")
    seen = see(data, max_pixels=max_pixels) if deep else None
    if seen is not None and seen.gaps:
        found.append("values not measured as black")
    return found


def reduced(width: int, height: int, short_side: int | None, squash: bool = False) -> tuple[int, int]:
    """Say an image's sides once its short side is at most `short_side`.

    Args:
        width, height: in pixels.
        short_side: in pixels, or None for no limit.
        squash: whether the long side is at most that too.

    Returns:
        Width and height, each at least 1, but for `squash` of the same aspect to rounding.
    """
    if squash and short_side is not None:
        return min(width, short_side), min(height, short_side)
    short = min(width, height)
    if short_side is None or short <= short_side:
        return width, height
    return max(1, round(width * short_side / short)), max(1, round(height * short_side / short))


def shrink(pixels: Pixels, short_side: int | None, reducing: Reducing = USUAL) -> Pixels:
    """Reduce an image to a short side, antialiased; a smaller one is returned as it is.

    Args:
        pixels: (H, W, 3) uint8.
        short_side: the short side's most pixels, or None for no limit.
        reducing: how.

    Returns:
        (H', W', 3) uint8.
    """
    height, width = pixels.shape[:2]
    size = reduced(width, height, short_side, reducing.squash)
    if size == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, FILTERS[reducing.filter]))


def upright_shape(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Read the height and width that `decode` gives an image, without decoding it.

    Args, raises: as `decode`.
    """
    with quiet:
        image = identify(io.BytesIO(data), max_pixels)
        turn = 1
        with suppress(Exception):  # a broken EXIF block does not spoil the pixels
            turn = image.getexif().get(0x0112, 1)
    return (image.width, image.height) if turn in (5, 6, 7, 8) else (image.height, image.width)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _load(
    image: Any,
    data: bytes,
    again: Any,
    short_side: int | None,
    exact: bool,
    value_range: Range | None,
    reducing: Reducing,
) -> Pixels:
    """Decode, convert, reduce and turn upright; see `decode` for `exact`, `deep_colour` for `again`."""
    target = reduced(image.width, image.height, short_side, reducing.squash)
    drafted = target != image.size and image.format in ("JPEG", "MPO")
    if drafted:
        # The decoder itself halves while it can; twice the target is left for a proper last step.
        room = 2 if exact else 1
        image.draft(None, (room * target[0], room * target[1]))
    pixels = jpeg.decode(image, data)
    deep: Any = None
    if pixels is None:
        if again is not None:
            deep = deep_colour.transparent(deep_colour.halves(image, again), image)
        image.load()
        if not drafted:
            target = reduced(image.width, image.height, short_side, reducing.squash)  # a TIFF may have turned
    turn = None
    with suppress(Exception):  # a broken EXIF block does not spoil the pixels
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    over = image.width > 2 * target[0] or image.height > 2 * target[1]
    reduces = target != image.size and (exact or over)
    if pixels is not None:
        if turn is None and not reduces:
            return pixels
        upright = Image.fromarray(pixels)
    else:
        upright = to_rgb(image, value_range) if deep is None else deep_colour.to_rgb(deep, value_range)
    if reduces:
        upright = upright.resize(target, FILTERS[reducing.filter], reducing_gap=3.0)
    if turn is not None:
        upright = upright.transpose(turn)
    return np.asarray(upright)


def picture(
    data: bytes | Path,
    *,
    max_pixels: int,
    short_side: int | None = None,
    exact: bool = True,
    value_range: Range | None = None,
    reducing: Reducing = USUAL,
) -> Picture:
    """Decode an image and keep what its file said of itself; `decode` gives the pixels alone.

    Args, raises: as `decode`.

    Returns:
        A `Picture`.
    """
    if isinstance(data, Path):
        data = read(data, max_pixels=max_pixels)
    if not data:
        raise BadImage("empty file")
    with quiet:
        image = identify(io.BytesIO(data), max_pixels)
        kind, mode, (width, height) = str(image.format), mode_of(image), image.size
        if kind == "PNG":
            _check_png(data)
        check_effort(image, data, max_pixels)
        again = identify(io.BytesIO(data), max_pixels) if deep_colour.is_deep_colour(image) else None
        alone = _large if width * height > _LARGE_PIXELS else nullcontext()
        try:
            with alone:
                pixels = _load(image, data, again, short_side, exact, value_range, reducing)
        except BadImage:
            raise
        except Exception as error:  # decoders raise anything on hostile bytes; one image, one reason
            raise BadImage(reason(error)) from None
    return Picture(pixels, kind, mode, width, height)


def decode(
    data: bytes | Path,
    *,
    max_pixels: int,
    short_side: int | None = None,
    exact: bool = True,
    value_range: Range | None = None,
    reducing: Reducing = USUAL,
) -> Pixels:
    """Decode an image: JPEG, PNG, WebP, BMP, TIFF, PPM or AVIF, or a GIF's first frame.

    Safe in threads. At most one image of more than 16 million pixels is decoded at a time.

    Args:
        data: the file's bytes, or its path.
        max_pixels: an image of more pixels is refused from its header.
        short_side: reduce to this short side, in pixels, keeping the aspect; smaller images stay.
        exact: whether to that very side; else up to twice of it will do, which the decoder of a JPEG sees
            to at no cost.
        value_range: of an image of more than 8 bits, the values that become 0 and 255; None: as this image
            alone has it. Images of 8 bits are not changed by it.
        reducing: how it is reduced.

    Returns:
        (H, W, 3) uint8, upright by its EXIF orientation, over white where it is transparent.

    Raises:
        BadImage: with the reason, such as "truncated" or "not an image".
    """
    return picture(
        data,
        max_pixels=max_pixels,
        short_side=short_side,
        exact=exact,
        value_range=value_range,
        reducing=reducing,
    ).pixels
