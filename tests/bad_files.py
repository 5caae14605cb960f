"""Writes one file of each known way for an image to be bad, and says what they are called."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

MAX_PIXELS = 1_000_000


def encoded(kind: str, width: int = 64, height: int = 48, mode: str = "RGB", **options: object) -> bytes:
    """A noisy image, encoded by Pillow."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind, **options)
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes, *, wrong: bool = False) -> bytes:
    """One PNG chunk, with its checksum or a wrong one."""
    crc = zlib.crc32(kind + data) ^ (0xFF if wrong else 0)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width: int, height: int, pixels: bytes, *, depth: int = 8, wrong: bytes = b"") -> bytes:
    """A grey PNG put together by hand, so that its header may lie."""
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(k, d, wrong=k == wrong) for k, d in chunks)


def tiff(tags: dict[int, tuple[int, ...]], body: bytes, *, big: bool = False) -> bytes:
    """A TIFF put together by hand: its body lies at byte 8; numbers are of 32 bits."""
    order = ">" if big else "<"
    at = 8 + len(body) + 2 + 12 * len(tags) + 4
    entries, lists = b"", b""
    for number, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        there = packed if len(values) == 1 else struct.pack(f"{order}I", at + len(lists))
        lists += packed if len(values) > 1 else b""
        entries += struct.pack(f"{order}HHI", number, 4, len(values)) + there
    head = (b"MM" if big else b"II") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + lists


def contents() -> dict[str, bytes]:
    """Name to bytes of the bad files that are ordinary files."""
    jpeg, whole = encoded("JPEG"), {k: encoded(k) for k in ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")}
    rows = zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8)))
    flipped = bytearray(whole["PNG"])
    flipped[len(flipped) // 2] ^= 0x55
    lzw = encoded("TIFF", compression="tiff_lzw")
    deflated = bytearray(encoded("TIFF", compression="tiff_adobe_deflate"))
    deflated[100:400] = bytes(300)
    gif_bomb = bytearray(encoded("GIF"))
    gif_bomb[6:10] = struct.pack("<HH", 65535, 65535)
    bmp_bomb = bytearray(whole["BMP"])
    bmp_bomb[18:26] = struct.pack("<ii", 100_000, 100_000)
    bmp_flat = bytearray(whole["BMP"])
    bmp_flat[18:22] = struct.pack("<i", 0)
    return {
        "zero_bytes.jpg": b"",
        "zero_bytes.png": b"",
        "one_byte.jpg": b"\xff",
        "only_nulls.jpg": bytes(5000),
        "noise.jpg": np.random.default_rng(1).bytes(5000),
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "words.png": "Kein Bild, nur Wörter.\n".encode(),
        "document.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "archive.png": b"PK\x03\x04" + bytes(200),
        "program.gif": b"\x7fELF\x02\x01\x01" + bytes(200),
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(200),
        "wrong_magic.png": b"\x88" + whole["PNG"][1:],
        "cut_half.jpg": jpeg[: len(jpeg) // 2],
        "cut_header.jpg": jpeg[:30],
        "cut_magic.jpg": jpeg[:3],
        "cut_half.png": whole["PNG"][: len(whole["PNG"]) // 2],
        "cut_header.png": whole["PNG"][:20],
        "cut_end.png": whole["PNG"][:-12],
        "cut_half.webp": whole["WEBP"][: len(whole["WEBP"]) // 2],
        "cut_half.gif": whole["GIF"][: len(whole["GIF"]) // 2],
        "cut_half.tif": whole["TIFF"][: len(whole["TIFF"]) // 2],
        "cut_lzw.tiff": lzw[:8] + lzw[8 : len(lzw) // 2],
        "cut_half.bmp": whole["BMP"][: len(whole["BMP"]) // 2],
        "cut_half.ppm": whole["PPM"][: len(whole["PPM"]) // 2],
        "broken_deflate.png": png(8, 8, rows[:4] + b"\xff" * (len(rows) - 4)),
        "broken_deflate.tif": bytes(deflated),
        "flipped_bits.png": bytes(flipped),
        "wrong_checksum.png": png(8, 8, rows, wrong=b"IDAT"),
        "wrong_header_checksum.png": png(8, 8, rows, wrong=b"IHDR"),
        "no_pixel_data.png": b"\x89PNG\r\n\x1a\n" + whole["PNG"][8:33] + png_chunk(b"IEND", b""),
        "zero_wide.png": png(0, 8, rows),
        "zero_high.png": png(8, 0, rows),
        "zero_wide.bmp": bytes(bmp_flat),
        "zero_wide.ppm": b"P6 0 5 255\n",
        "strange_depth.png": png(8, 8, rows, depth=5),
        "bomb.png": png(50_000, 50_000, zlib.compress(bytes(100_000))),
        "bomb.gif": bytes(gif_bomb),
        "bomb.bmp": bytes(bmp_bomb),
        "bomb.ppm": b"P6 99999 99999 255\n" + bytes(100),
        "over_the_limit.jpg": encoded("JPEG", 1001, 1000),
        "over_the_limit.png": encoded("PNG", 1_000_001, 1),
    }


def write(folder: Path) -> list[str]:
    """Write every kind of bad image into a folder.

    Args:
        folder: an existing folder; its file system should know links, pipes and sockets.

    Returns:
        Their names, sorted. Each is to be refused with `max_pixels=MAX_PIXELS`.
    """
    named = contents()
    for name, data in named.items():
        (folder / name).write_bytes(data)
    names = list(named)
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "device.bmp").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.gif")
    with socket.socket(socket.AF_UNIX) as plug:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path may be 100 bytes long, a temporary folder's is longer
        try:
            plug.bind("socket.webp")
        finally:
            os.chdir(here)
    names += ["folder.jpg", "dangling.jpg", "circle.png", "device.bmp", "pipe.gif", "socket.webp"]
    with open(folder / "sparse.tif", "wb") as file:
        file.write(b"II*\0")
        file.truncate(1 << 40 if os.statvfs(folder).f_frsize else 1 << 33)
    names.append("sparse.tif")
    locked = folder / "locked.jpg"
    locked.write_bytes(encoded("JPEG"))
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # root may read everything
        locked.unlink()
    else:
        names.append("locked.jpg")
    return sorted(names)


def planes(bits: int) -> bytes:
    """Write a TIFF of 4 x 4 pixels whose three colours, 0, 7 and 14, lie one after the other."""
    size = 16 * bits // 8
    tags = {256: (4,), 257: (4,), 258: (bits,) * 3, 259: (1,), 262: (2,), 277: (3,), 278: (4,), 284: (2,)}
    start = 8 + 2 + 12 * 10 + 4
    tags |= {273: tuple(start + 18 + at * size for at in range(3)), 279: (size,) * 3}
    entries, extra = b"", b""
    for tag in sorted(tags):
        values = struct.pack(f"<{len(tags[tag])}H", *tags[tag])
        if len(values) > 4:
            values, extra = struct.pack("<I", start + len(extra)), extra + values
        entries += struct.pack("<HHI", tag, 3, len(tags[tag])) + values.ljust(4, b"\0")
    colours = b"".join(struct.pack("<H", 7 * at)[: bits // 8] * 16 for at in range(3))
    return b"II*\0" + struct.pack("<IH", 8, 10) + entries + b"\0" * 4 + extra + colours
