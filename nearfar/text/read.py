"""Reads a text from bytes, or says in a few words why it cannot be used."""

from __future__ import annotations

import codecs

from ..core.errors import BadImage

MOST = 1 << 20  # bytes of one text, at most
BETWEEN = "\0"  # the texts of one example are kept with this between them, which no text holds


def check_size(size: int) -> None:
    """Refuse a text of too many bytes.

    Raises:
        BadImage: there are more than `MOST`.
    """
    if size > MOST:
        raise BadImage(f"too long: {size:,} bytes, and {MOST:,} are allowed; cut it into several texts")


def text_of(data: bytes) -> str:
    """Decode one text, without the blanks around it.

    Args:
        data: UTF-8, or UTF-16 or UTF-32 behind a byte-order mark.

    Raises:
        BadImage: it is empty, too long, or no text.
    """
    check_size(len(data))
    code = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the first begins as UTF-16 does
        code = "utf-32"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        code = "utf-16"
    try:
        text = data.decode(code).strip()
    except UnicodeDecodeError as error:
        name = code.removesuffix("-sig").upper()
        raise BadImage(f"not {name}: byte {error.start:,} fits no letter; save it as UTF-8") from None
    if BETWEEN in text:
        raise BadImage("no text: it holds NUL bytes")
    if not text:
        raise BadImage("empty")
    return text
