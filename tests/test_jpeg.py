"""JPEG files decoded without Pillow have Pillow's pixels, and broken ones are called what it calls them."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import pictures
from nearfar.core.errors import BadImage
from nearfar.images import jpeg
from nearfar.images.decode import decode

LIMIT = 1 << 24
FORMS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "colours as they are": {"keep_rgb": True},
    "coarse": {"quality": 5},
}


def saved(image: Any, **how: Any) -> bytes:
    """Save an image as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **how)
    return buffer.getvalue()


def drawn(high: int, wide: int, seed: int = 0) -> Any:
    """Draw an image as smooth as a photograph."""
    return Image.fromarray(pictures.photographs(1, high, wide, seed)[0])


def both(data: bytes, monkeypatch: pytest.MonkeyPatch, **how: Any) -> tuple[Any, Any]:
    """Decode with simplejpeg, and with Pillow alone."""
    used = []
    own = jpeg.decode

    def spied(image: Any, content: bytes) -> Any:
        found = own(image, content)
        used.append(found is not None)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "decode", spied)
        quick = decode(data, max_pixels=LIMIT, **how)
        patch.setattr(jpeg, "simplejpeg", None)
        plain = decode(data, max_pixels=LIMIT, **how)
    assert used == [True, False]  # each decoder had its turn
    return quick, plain


@pytest.mark.parametrize("sides", [(1, 1), (7, 13), (64, 48), (375, 500)])
@pytest.mark.parametrize("form", FORMS)
def test_equals_pillow(form: str, sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every form, to the bit."""
    quick, plain = both(saved(drawn(*sides), **FORMS[form]), monkeypatch)
    np.testing.assert_array_equal(quick, plain)


@pytest.mark.parametrize("form", ["4:2:0", "4:4:4", "progressive"])
@pytest.mark.parametrize("short_side", [32, 60, 100, 180, 256])
@pytest.mark.parametrize("exact", [True, False])
def test_equals_pillow_reduced(
    form: str, short_side: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every reduction that Pillow lets the decoder make."""
    data = saved(drawn(371, 509), **FORMS[form])
    quick, plain = both(data, monkeypatch, short_side=short_side, exact=exact)
    np.testing.assert_array_equal(quick, plain)


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upright by its EXIF block, reduced or not."""
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(drawn(60, 90), exif=exif)
    for side in (None, 20):
        quick, plain = both(data, monkeypatch, short_side=side)
        np.testing.assert_array_equal(quick, plain)


def test_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel becomes three."""
    quick, plain = both(saved(drawn(40, 50).convert("L")), monkeypatch)
    np.testing.assert_array_equal(quick, plain)


def test_four_colours_are_pillows() -> None:
    """Which of them are inverted, Pillow knows."""
    data = saved(drawn(40, 50).convert("CMYK"))
    image = Image.open(io.BytesIO(data))
    assert jpeg.decode(image, data) is None
    assert decode(data, max_pixels=LIMIT).shape == (40, 50, 3)


def test_broken_files_are_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short or damaged at any place: the same pixels, or the same reason."""
    whole = saved(drawn(48, 64))
    random = np.random.default_rng(0)
    files = [whole[:end] for end in range(100, len(whole), 97)]
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(random.integers(2, len(whole)))] = int(random.integers(256))
        files.append(bytes(damaged))

    def told(data: bytes) -> Any:
        try:
            return decode(data, max_pixels=LIMIT).tolist()
        except BadImage as bad:
            return str(bad)

    quick = [told(data) for data in files]
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert quick == [told(data) for data in files]
