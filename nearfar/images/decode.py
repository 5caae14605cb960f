"""Turns an image file into plain RGB pixels, or says in a few words why it cannot.

Nothing in a file is trusted: its name does not decide its format, its header is held against the pixel
limit before a pixel is decoded, and whatever goes wrong inside becomes one `BadImage` with a reason.
"""

from __future__ import annotations

import importlib
import io
import logging
import struct
import threading
import warnings
import zlib
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core.errors import BadImage
from .colour_modes import to_rgb
from .files import open_file, read
from .value_range import Range, Seen, is_deep, see_image

__all__ = ["Picture", "Pixels", "decode", "header", "picture", "read", "reduced", "remarks", "see", "shrink"]

Pixels = npt.NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
for _plugin in ("Jpeg", "Mpo", "Png", "WebP", "Bmp", "Tiff", "Gif", "Ppm", "Avif"):
    with suppress(ImportError):  # a Pillow built without one of them still reads the others
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its complaints go to standard error

# Of a JPEG. A progressive one has about 10, and each takes as long as the whole picture.
_MAX_SCANS, _USUAL_SCANS = 200, 20
_MAX_SCANNED = 2_000_000_000  # pixels over all scans, some 20 seconds' work; of the usual number, any
_LARGE_PIXELS = 1 << 24
_large = threading.Lock()  # held while a larger image is decoded, so that only one is in memory at a time


class _Quiet:
    """Silences Pillow's warnings while any thread decodes; `warnings.catch_warnings` knows no threads."""

    def __init__(self) -> None:
        self.lock, self.depth = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.depth == 0:
                self.saved = warnings.catch_warnings()
                self.saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b|nearfar\.images")
            self.depth += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self.saved.__exit__(None, None, None)


_quiet = _Quiet()


@dataclass(frozen=True)
class Header:
    """What a file says of itself in its header: format, mode, stored sides in pixels."""

    format: str
    mode: str
    width: int
    height: int


@dataclass(frozen=True)
class Picture:
    """One decoded image: its pixels, and what the file said of itself (format, mode, stored sides)."""

    pixels: Pixels
    format: str
    mode: str
    width: int
    height: int


def _reason(error: Exception) -> str:
    """Turn whatever Pillow raised into the few words that `rejected.csv` carries."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(error, Image.DecompressionBombError):
        return "over the limit: a decompression bomb"
    if isinstance(error, EOFError) or "truncated" in text.lower() or "unexpected end" in text.lower():
        return "truncated"
    if text == "not identified by this driver":
        return "broken: its header makes no sense"
    return f"broken: {text[:100]}"


def _identify(file: IO[bytes], max_pixels: int) -> Any:
    """Read an image's header, by what the bytes are and not by their name, and check its size."""
    prefix = file.read(16)
    file.seek(0)
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None or not accept(prefix):
            continue
        try:
            if name == "PNG":
                file = io.BytesIO(without_texts(file.read()))
            # Not Image.open: its own limit would refuse what a larger --max-pixels allows.
            image = factory(file, "")
        except Exception as error:  # a hostile header may raise anything at all
            raise BadImage(_reason(error)) from None
        width, height = image.size
        if width < 1 or height < 1:
            raise BadImage("it has no pixels")
        if width * height > max_pixels:
            raise BadImage(f"over the limit of {max_pixels:,} pixels: {width} x {height}")
        return image
    file.seek(0)
    raise BadImage(_foreign(file.read(132)))


def _foreign(start: bytes) -> str:
    """Say what a file is that is not read, if its first bytes tell."""
    if start[4:8] == b"ftyp":
        return "a HEIC picture or a video, which is not read: convert it with heif-convert or ffmpeg"
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL picture, which is not read: convert it with djxl"
    if start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "a JPEG 2000 picture, which is not read: convert it with opj_decompress"
    if start[128:132] == b"DICM":
        return "a DICOM picture, which is not read: convert it with dcmj2pnm or pydicom"
    return "not an image"


def read_header(data: bytes | Path, *, max_pixels: int) -> Header:
    """Read what an image's file says of itself, without decoding it.

    Args, raises: as `header`.

    Returns:
        A `Header`.
    """
    with _quiet, open_file(data, max_pixels) if isinstance(data, Path) else io.BytesIO(data) as file:
        image = _identify(file, max_pixels)
        return Header(str(image.format), str(image.mode), int(image.width), int(image.height))


def header(data: bytes | Path, *, max_pixels: int) -> tuple[int, int]:
    """Read an image's height and width without decoding it.

    Args:
        data: the file's bytes, or its path.
        max_pixels: the most pixels allowed.

    Returns:
        Height and width in pixels, as stored (an EXIF turn may swap them).

    Raises:
        BadImage: it cannot be read, is no image, or is over the limit.
    """
    found = read_header(data, max_pixels=max_pixels)
    return found.height, found.width


def without_texts(data: bytes) -> bytes:
    """Leave colour profiles and texts out of a PNG: Pillow refuses sound files whose own are large.

    What may hold the orientation stays.

    Args:
        data: the file; a broken one comes back as it is.
    """
    parts, at, kept = [data[:8]], 8, True
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        text = kind in (b"zTXt", b"iTXt", b"tEXt")
        oriented = text and data.startswith((b"Raw profile type", b"XML:com.adobe.xmp"), at + 8)
        if kind == b"iCCP" or (text and not oriented):
            kept = False
        else:
            parts.append(data[at:end])
        at = end
    return data if kept else b"".join([*parts, data[at:]])


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
    with _quiet:
        with open_file(data, max_pixels) if isinstance(data, Path) else io.BytesIO(data) as file:
            image = _identify(file, max_pixels)
            if not is_deep(image):
                return None
            file.seek(0)
            content = file.read()
        image = _identify(io.BytesIO(content), max_pixels)
        try:
            with _large if image.width * image.height > _LARGE_PIXELS else nullcontext():
                image.load()
                return see_image(image, _significant(content) if image.format == "PNG" else 0)
        except Exception as error:
            raise BadImage(_reason(error)) from None


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
    with _quiet:
        image = _identify(io.BytesIO(data), max_pixels)
        with suppress(Exception):  # a broken later page does not spoil the first
            image.seek(1)  # its n_frames would walk through all, of which a hostile file has millions
            found.append("first page or frame")
        with suppress(Exception):
            image.seek(0)
        tags = getattr(image, "tag_v2", {})
        if image.mode in ("RGB", "RGBX") and tags.get(277, 3) > 3:
            found.append("first 3 channels")
        bits = tags.get(258, (8,)) if tags else (data[24],) if image.format == "PNG" else (8,)
        if max(bits) > 8 and not is_deep(image):
            found.append("upper 8 bits of each channel")
        deep = is_deep(image)
    seen = see(data, max_pixels=max_pixels) if deep else None
    if seen is not None and seen.gaps:
        found.append("values not measured as black")
    return found


def reduced(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Say an image's sides once its short side is at most `short_side`.

    Args:
        width, height: in pixels.
        short_side: in pixels, or None for no limit.

    Returns:
        Width and height, each at least 1, of the same aspect to rounding.
    """
    short = min(width, height)
    if short_side is None or short <= short_side:
        return width, height
    return max(1, round(width * short_side / short)), max(1, round(height * short_side / short))


def shrink(pixels: Pixels, short_side: int | None) -> Pixels:
    """Reduce an image to a short side, antialiased bicubic; a smaller one is returned as it is.

    Args:
        pixels: (H, W, 3) uint8.
        short_side: the short side's most pixels, or None for no limit.

    Returns:
        (H', W', 3) uint8.
    """
    height, width = pixels.shape[:2]
    size = reduced(width, height, short_side)
    if size == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _load(image: Any, short_side: int | None, exact: bool, value_range: Range | None) -> Pixels:
    """Decode, convert, reduce and turn upright; see `decode` for `exact`."""
    target = reduced(image.width, image.height, short_side)
    if target != image.size and image.format in ("JPEG", "MPO"):
        # The decoder itself halves while it can; twice the target is left for a proper last step.
        room = 2 if exact else 1
        image.draft(None, (room * target[0], room * target[1]))
        image.load()
    else:
        image.load()
        target = reduced(image.width, image.height, short_side)  # again: loading a TIFF may turn it
    turn = None
    with suppress(Exception):  # a broken EXIF block does not spoil the pixels
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    upright = to_rgb(image, value_range)
    if target != upright.size and (exact or upright.width > 2 * target[0]):
        upright = upright.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
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
    with _quiet:
        image = _identify(io.BytesIO(data), max_pixels)
        kind, mode, (width, height) = str(image.format), str(image.mode), image.size
        if kind == "PNG":
            _check_png(data)
        if kind in ("JPEG", "MPO"):
            allowed = min(_MAX_SCANS, max(_USUAL_SCANS, _MAX_SCANNED // (width * height)))
            if (scans := data.count(b"\xff\xda")) > allowed:
                raise BadImage(f"over the limit of {allowed} scans: {scans:,}")
        alone = _large if width * height > _LARGE_PIXELS else nullcontext()
        try:
            with alone:
                pixels = _load(image, short_side, exact, value_range)
        except Exception as error:  # decoders raise anything on hostile bytes; one image, one reason
            raise BadImage(_reason(error)) from None
    return Picture(pixels, kind, mode, width, height)


def decode(
    data: bytes | Path,
    *,
    max_pixels: int,
    short_side: int | None = None,
    exact: bool = True,
    value_range: Range | None = None,
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

    Returns:
        (H, W, 3) uint8, upright by its EXIF orientation, over white where it is transparent.

    Raises:
        BadImage: with the reason, such as "truncated" or "not an image".
    """
    return picture(
        data, max_pixels=max_pixels, short_side=short_side, exact=exact, value_range=value_range
    ).pixels
