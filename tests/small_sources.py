"""What tests of sources share: small images in one colour, tar files of them, and refusals."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.core.errors import NearfarError
from nearfar.data.source import Source
from nearfar.data.sources import open_source
from nearfar.images import decode


def png(value: int, width: int = 6, height: int = 5) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def red(source: Source, index: int) -> int:
    data = source.read(index)
    pixels = data if isinstance(data, np.ndarray) else decode.decode(data, max_pixels=10**6)
    return int(pixels[0, 0, 0])


def refuses(data: object, *words: str, **options: bool) -> None:
    with pytest.raises(NearfarError) as caught:
        open_source(data, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def add(tar: tarfile.TarFile, name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type = len(data), kind
    if kind == tarfile.SYMTYPE:
        member.linkname, member.size = "/etc/passwd", 0
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in two classes, one of them in a folder further down."""
    for value, name in enumerate(["cat/1.png", "cat/deep/2.png", "dog/1.png"]):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(png(value))
    return tmp_path / "pets"
