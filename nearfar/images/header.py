"""Reads what an image file is, and how large, before a pixel of it is decoded.

Nothing in a file is trusted: its name does not decide its format, and its sides are held against the limit.
"""

from __future__ import annotations

import importlib
import io
import logging
import struct
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ..core.errors import BadImage
from .deep_colour import is_deep_colour
from .files import open_file
from .value_range import number_of

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
for _plugin in ("Jpeg", "Mpo", "Png", "WebP", "Bmp", "Tiff", "Gif", "Ppm", "Avif"):
    with suppress(ImportError):  # a Pillow built without one of them still reads the others
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")
# TIFF tags, and values of the last two
_BITS, _PLANES, _SAMPLE_FORMAT = 258, 284, 339
_APART, _SIGNED = 2, 2
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its complaints go to standard error


class Quiet:
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


quiet = Quiet()


@dataclass(frozen=True)
class Header:
    """What a file says of itself in its header: format, mode, stored sides in pixels."""

    format: str
    mode: str
    width: int
    height: int


def reason(error: Exception) -> str:
    """Turn whatever Pillow raised into the few words that `rejected.csv` carries.

    Args:
        error: what was raised.
    """
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(error, Image.DecompressionBombError):
        return "over the limit: a decompression bomb"
    if isinstance(error, EOFError) or "truncated" in text.lower() or "unexpected end" in text.lower():
        return "truncated"
    if text == "unknown pixel mode":
        return "its pixels are of a kind that is not read: save it with 8 or 16 bits a channel"
    if text == "not identified by this driver":
        return "broken: its header makes no sense"
    return f"broken: {text[:100]}"


def _check_pixels(image: Any) -> None:
    """Refuse a TIFF whose pixels Pillow would take for others: signed bytes, and 16 bits in bare planes."""
    tags = getattr(image, "tag_v2", {})
    bits, form, planes = (number_of(tags.get(tag)) for tag in (_BITS, _SAMPLE_FORMAT, _PLANES))
    if form == _SIGNED and bits == 8:
        raise BadImage("its values are signed bytes, which are not read: save it with 16 bits")
    if planes == _APART and bits == 16 and image.tile and image.tile[0].codec_name == "raw":
        raise BadImage(
            "its colours of 16 bits lie in planes of their own, which are not read: save it compressed"
        )


def identify(file: IO[bytes], max_pixels: int) -> Any:
    """Read an image's header, by what the bytes are and not by their name, and check its size.

    Args:
        file: open at its start.
        max_pixels: the most pixels allowed.

    Returns:
        Pillow's image, of which no pixel is decoded yet.

    Raises:
        BadImage: it is no image, or over the limit.
    """
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
            raise BadImage(reason(error)) from None
        width, height = image.size
        if width < 1 or height < 1:
            raise BadImage("it has no pixels")
        if width * height > max_pixels:
            raise BadImage(f"over the limit of {max_pixels:,} pixels: {width} x {height}")
        _check_pixels(image)
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


def mode_of(image: Any) -> str:
    """Name an image's colours as Pillow does, and those of 16 bits a channel with ";16"."""
    return f"{image.mode};16" if is_deep_colour(image) else str(image.mode)


def is_deep_mode(mode: str) -> bool:
    """Tell whether colours of this name, from `mode_of`, have more than 8 bits a channel."""
    return mode[:1] in ("I", "F") or mode.endswith(";16")


def read_header(data: bytes | Path, *, max_pixels: int) -> Header:
    """Read what an image's file says of itself, without decoding it.

    Args, raises: as `stored_shape`.

    Returns:
        A `Header`.
    """
    with quiet, open_file(data, max_pixels) if isinstance(data, Path) else io.BytesIO(data) as file:
        image = identify(file, max_pixels)
        return Header(str(image.format), mode_of(image), int(image.width), int(image.height))


def stored_shape(data: bytes | Path, *, max_pixels: int) -> tuple[int, int]:
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
