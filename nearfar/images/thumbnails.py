"""Opens the thumbnails of a store, which may be a stranger's, by the guarded decoder alone."""

from __future__ import annotations

from ..core.errors import BadImage
from .decode import Pixels, decode

MAX_PIXELS = 1 << 22  # of a thumbnail: 2,048 x 2,048


def thumbnail(data: bytes) -> Pixels | None:
    """Decode a thumbnail.

    Never `PIL.Image.open`, which reads every format that Pillow knows: an EPS file is a program, and it would
    start Ghostscript.

    Args:
        data: a JPEG, PNG or WebP file; b"" where there is none.

    Returns:
        (H, W, 3) uint8; None if there is no thumbnail, or it is of another format, too large or broken.
    """
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if not webp and not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return None
    try:
        return decode(data, max_pixels=MAX_PIXELS)
    except BadImage:
        return None


def checked(data: bytes) -> bytes:
    """Give a thumbnail's file as it is if the guarded decoder reads it, and else nothing.

    What leaves for another viewer, which may trust it, passes here.
    """
    return data if thumbnail(data) is not None else b""
