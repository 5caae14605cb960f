"""Images of more than 8 bits: one range for a collection, found, kept, and never one for each image."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import bad_files
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

import nearfar
from nearfar.app import originals
from nearfar.app.findings import Findings
from nearfar.app.row_numbers import NumberedStore
from nearfar.core.errors import BadImage, NearfarError
from nearfar.data import cache
from nearfar.data.sources import open_source
from nearfar.data.value_range import find_range
from nearfar.images import decode
from nearfar.images.value_range import to_rgb_array

MAX = 10**6
RAMP = np.linspace(0, 1, 32 * 32).reshape(32, 32)
FAST: dict[str, Any] = {
    "steps": 1, "batch_size": 4, "encoder": "resnet10_w16", "image_size": 32, "precision": "float32",
    "holdout": 0.0, "workers": 1,
}  # fmt: skip


def save(values: np.ndarray, kind: str, **tags: Any) -> bytes:
    """Write an array as a file of one format."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **tags)
    return file.getvalue()


def tagged(values: np.ndarray, **numbers: Any) -> bytes:
    """Write a TIFF with tags "t281" and the like."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in numbers.items():
        info[int(name[1:])] = value
    return save(values, "TIFF", tiffinfo=info)


def with_sbit(png: bytes, bits: int) -> bytes:
    """Insert an sBIT chunk after a PNG's header."""
    body = b"sBIT" + bytes([bits])
    return png[:33] + struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body)) + png[33:]


def range_of(*files: bytes, **how: Any) -> Any:
    """Find the range of files in a list."""
    return find_range(open_source(list(files)), max_pixels=MAX, **how)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_integers_reach_to_the_next_depth(kind: str, bits: int) -> None:
    white = (1 << bits) - 1
    data = save(np.rint(RAMP * white).astype(np.uint16), kind)
    assert range_of(data) == (0, white)
    grey = decode.decode(data, max_pixels=MAX, value_range=(0, white))
    assert len(np.unique(grey)) > 200 and grey.min() == 0 and grey.max() == 255
    assert np.array_equal(grey, decode.decode(data, max_pixels=MAX))


COLOURS = np.rint(4095 * RAMP[:, :, None] * [1, 0.5, 0.25]).astype(np.uint16)


def colour_file(kind: str, values: np.ndarray) -> bytes:
    """Write (H, W, channels) of 16 bits; Pillow writes no such file."""
    high, wide, channels = values.shape
    if kind == "PNG":
        form = {2: 4, 3: 2, 4: 6}[channels]
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        head = struct.pack(">IIBBBBB", wide, high, 16, form, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(bad_files.png_chunk(*chunk) for chunk in chunks)
    big, packed = "big" in kind, "packed" in kind
    body = values.astype(">u2" if big else "<u2").tobytes()
    body = zlib.compress(body) if packed else body
    tags = {
        256: (wide,), 257: (high,), 258: (16,) * channels, 259: (8 if packed else 1,), 262: (2,), 273: (8,),
        277: (channels,), 278: (high,), 279: (len(body),),
    }  # fmt: skip
    return bad_files.tiff(tags | ({338: (2,)} if channels == 4 else {}), body, big=big)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF big", "TIFF packed", "TIFF big packed"])
def test_colours_of_12_bits_in_16_keep_all_of_them(kind: str) -> None:
    data = colour_file(kind, COLOURS)
    assert range_of(data) == (0, 4095)
    shown = decode.decode(data, max_pixels=MAX, value_range=(0, 4095))
    assert np.abs(shown.astype(float) - COLOURS / 4095 * 255).max() <= 0.5
    assert decode.remarks(data, max_pixels=MAX) == []
    assert decode.picture(data, max_pixels=MAX).mode == "RGB;16"
    clear = np.full((32, 32, 1), 65535, np.uint16)
    clear[:9] = 0
    shown = decode.decode(colour_file(kind, np.concatenate([COLOURS, clear], axis=2)), max_pixels=MAX)
    assert (shown[:9] == 255).all() and np.abs(shown[9:] - COLOURS[9:] / 4095 * 255).max() <= 0.5
    if kind == "PNG":
        grey = np.concatenate([COLOURS[:, :, :1], clear], axis=2)
        shown = decode.decode(colour_file(kind, grey), max_pixels=MAX)
        assert (shown[:9] == 255).all() and np.abs(shown[9:] - grey[9:, :, :1] / 4095 * 255).max() <= 0.5


def test_eight_bits_are_left_alone() -> None:
    data = save((RAMP * 200).astype(np.uint8), "PNG")
    assert range_of(data) is None
    plain = decode.decode(data, max_pixels=MAX)
    assert np.array_equal(decode.decode(data, max_pixels=MAX, value_range=(0, 4095)), plain)
    assert np.array_equal(plain[..., 0], (RAMP * 200).astype(np.uint8))


def test_what_the_file_says_counts() -> None:
    dark = (RAMP * 300).astype(np.uint16)
    assert range_of(tagged(dark)) == (0, 1023)
    assert range_of(tagged(dark, t281=4095)) == (0, 4095)
    assert range_of(with_sbit(save(dark, "PNG"), 12)) == (0, 4095)
    stretched = (RAMP * 65535).astype(np.uint16)  # 12 bits that the writer scaled to 16, as PNG asks for
    assert range_of(with_sbit(save(stretched, "PNG"), 12)) == (0, 65535)


def test_a_mark_of_65535_among_12_bits() -> None:
    marked = np.rint(RAMP * 4095).astype(np.uint16)
    marked[0, 0] = 65535
    assert range_of(save(marked, "PNG")) == (0, 4095)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (RAMP, (0, 1)),
        (RAMP * 1.0001, (0, 1)),
        (np.rint(RAMP * 255), (0, 255)),
        (np.rint(RAMP * 3000), (0, 4095)),
    ],
)
def test_floats(values: np.ndarray, wanted: tuple[float, float]) -> None:
    data = save(values.astype(np.float32), "TIFF")
    assert range_of(data) == wanted
    assert len(np.unique(decode.decode(data, max_pixels=MAX))) > 150


@pytest.mark.parametrize("mark", [np.nan, np.inf, -np.inf, -9999.0, 3.4e38, 7777.0])
def test_what_was_not_measured_is_masked(mark: float) -> None:
    degrees = (RAMP * 60 + 250.5).astype(np.float32)
    degrees[:6] = mark
    data = tagged(degrees, t42113=str(mark))
    low, high = range_of(data)
    assert 250 < low < 270 and 309 < high < 311
    grey = decode.decode(data, max_pixels=MAX, value_range=(low, high))
    assert not grey[:6].any() and len(np.unique(grey)) > 200


def test_wide_integers() -> None:
    wide = (RAMP * 4e9).astype(np.uint32)
    signed = save(wide.view(np.int32), "TIFF")
    entry = struct.pack("<HHI", 339, 3, 1)  # SampleFormat: Pillow writes 2, for signed
    data = signed.replace(entry + b"\x02", entry + b"\x01")
    assert data != signed
    low, high = range_of(data)
    assert low < 1e8 and 3.9e9 < high < 4.1e9
    grey = decode.decode(data, max_pixels=MAX)[..., 0].ravel().astype(int)
    assert (np.diff(grey) >= 0).all() and len(np.unique(grey)) > 200


def test_percentiles() -> None:
    data = save(np.rint(RAMP * 4095).astype(np.uint16), "PNG")
    low, high = range_of(data, percentiles=(10, 90))
    assert low == pytest.approx(409, abs=5) and high == pytest.approx(3686, abs=5)


def shot(folder: Path, name: str, level: float, seed: int = 0) -> Path:
    """Write a noisy 12-bit image in a 16-bit PNG."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).uniform(0.5, 1, (40, 40)) * level
    Image.fromarray(np.rint(noise).astype(np.uint16)).save(folder / name)
    return folder / name


@pytest.mark.parametrize("once", [True, False])
def test_a_collection_keeps_its_relative_brightness(tmp_path: Path, once: bool) -> None:
    shot(tmp_path / "a", "bright.png", 4000)
    shot(tmp_path / "a", "dark.png", 1000)
    source = open_source(tmp_path / "a")
    how = {"short_side": None, "max_pixels": MAX, "max_bad": 0.0, "threads": 1}

    def means(**more: Any) -> list[float]:
        block = cache.load(source, **how, decode_once=once, **more).gather(np.array([0, 1]))
        return [float(block.pixels[at : at + 4800].mean()) for at in block.offset]

    bright, dark = means()
    assert bright / dark == pytest.approx(4, rel=0.02) and bright > 150
    assert means(value_range=(0, 16383)) == pytest.approx([bright / 4, dark / 4], rel=0.05)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.uint16, 1023), (np.int32, 1023), (np.int64, 4095), (np.float32, 1.0), (np.float64, 255.0),
    ],
)  # fmt: skip
def test_arrays_have_one_range(values: Any, white: float) -> None:
    share = np.array([0.25, 1.0])[:, None, None, None] * np.linspace(0, 1, 8 * 8 * 3).reshape(8, 8, 3)
    images = (share * white).astype(values)
    how = {"short_side": None, "max_pixels": MAX, "max_bad": 0.0, "threads": 1}
    made = cache.load(open_source(images), **how)
    assert np.abs(made[1].astype(float) - share[1] * 255).max() < 2
    assert np.abs(made[0].astype(float) - share[0] * 255).max() < 2


def test_masks_and_transparency() -> None:
    how = {"short_side": None, "max_pixels": MAX, "max_bad": 0.0, "threads": 1}
    mask = np.random.default_rng(0).random((3, 8, 8)) > 0.5
    made = cache.load(open_source(mask), **how)
    assert np.array_equal(made[0][..., 0], mask[0] * np.uint8(255))
    deep = np.full((2, 8, 8, 4), 1000, np.uint16)
    deep[:, 0, :, 3] = 0
    deep[:, 1:, :, 3] = 1023
    made = cache.load(open_source(deep), **how)
    assert (made[0][0] == 255).all() and (made[0][1:] == round(1000 * 255 / 1023)).all()


@pytest.mark.filterwarnings("error")
def test_clear_floats_have_their_own_range_and_halves_are_read() -> None:
    how = {"short_side": None, "max_pixels": MAX, "max_bad": 0.6, "threads": 1}
    deep = np.full((2, 8, 8, 4), 1000, np.float32)
    deep[..., 3], deep[0, 0, 0, :3] = 1, 4000
    made = cache.load(open_source(deep), **how)
    assert abs(int(made[1][0, 0, 0]) - 64) < 3
    half = np.full((2, 8, 8, 3), 0.5, np.float16)
    half[1] = np.nan
    made = cache.load(open_source(half), **how)
    assert len(made) == 1 and (made[0] == 128).all()
    with pytest.raises(BadImage, match="no value in it was measured"):
        decode.decode(save(np.full((8, 8), np.nan, np.float32), "TIFF"), max_pixels=MAX)


def test_no_advice_that_wraps() -> None:
    with pytest.raises(NearfarError, match="real numbers"):
        open_source(np.zeros((4, 8, 8, 3), np.complex64))


def test_a_run_keeps_its_range(tmp_path: Path) -> None:
    for number in range(8):
        shot(tmp_path / "train", f"{number}.png", 4000 if number % 2 else 900, number)
    run = nearfar.pretrain(tmp_path / "train", out=tmp_path / "run", **FAST)
    assert run.preprocess.value_range == (0, 4095)
    run = nearfar.load(tmp_path / "run")
    assert run.preprocess.value_range == (0, 4095)
    dark = shot(tmp_path / "later", "dark.png", 200, 9)  # 8 bits would do for it
    x = run.encode([dark])
    levels = np.asarray(Image.open(dark)).astype(np.float64)
    grey = np.rint(levels * 255 / 4095).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.allclose(x, run.encode([grey]), atol=1e-5)
    assert np.allclose(x, run.encode([levels.astype(np.uint16)]), atol=1e-5)
    own = np.rint(levels * 255 / 1023).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert not np.allclose(x, run.encode([own]), atol=1e-3)
    nearfar.embed(run, dark.parent, store=tmp_path / "s.nf")  # in the store and on the page too
    store = nearfar.open_store(tmp_path / "s.nf")
    (small,) = store.thumbnails(["dark.png"])
    for shown in (small, originals.photo(store, "dark.png")):
        assert np.asarray(Image.open(io.BytesIO(shown))).max() < 40
    near = Findings(NumberedStore(store), run.path).like_file(dark.read_bytes())
    assert near.columns["similarity"][0] > 0.999999


def test_the_range_can_be_told(tmp_path: Path) -> None:
    for number in range(8):
        shot(tmp_path / "train", f"{number}.png", 4000, number)
    run = nearfar.pretrain(tmp_path / "train", out=tmp_path / "run", range=(100, 9000), **FAST)
    assert run.preprocess.value_range == (100, 9000)
    with pytest.raises(NearfarError, match="--range is 5 3"):
        nearfar.pretrain(tmp_path / "train", out=tmp_path / "other", range=(5, 3), **FAST)
    with pytest.raises(NearfarError, match=r"--range 100\.0 9000\.0 became 100\.0 9001\.0"):
        nearfar.pretrain(tmp_path / "train", out=tmp_path / "run", range=(100, 9001), **FAST)


def test_check_says_what_is_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(6):
        shot(tmp_path / "a", f"{number}.png", 4000, number)
    found = nearfar.check(tmp_path / "a", **FAST)
    assert found.inspection.range == (0, 4095) and found.to_json()["range"] == (0, 4095)
    assert "values of 0 become black and 4095 white" in str(found) and "read as" not in str(found)
    assert nearfar.check(tmp_path / "a", range=(50, 900), **FAST).inspection.range == (50, 900)
    gap = (RAMP * 60 + 250.5).astype(np.float32)
    gap[0] = np.nan
    (tmp_path / "a" / "gap.tif").write_bytes(save(gap, "TIFF"))
    pages = [Image.fromarray((RAMP * 255).astype(np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "a" / "pages.tif", save_all=True, append_images=pages[1:])
    four = tmp_path / "a" / "four.tif"
    Image.fromarray(np.zeros((32, 32, 4), np.uint8), "RGBX").save(four)
    notes = nearfar.check(tmp_path / "a", **FAST).inspection.notes
    assert notes == {
        "values not measured as black": 1, "first page or frame": 1, "first 3 channels": 1,
    }  # fmt: skip
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(3):
        Image.fromarray((RAMP * 255).astype(np.uint8)).save(plain / f"{number}.png")
    found = nearfar.check(plain, **FAST)
    assert found.inspection.range is None and not found.inspection.notes
    assert "range" not in str(found).split("unusable")[0]


def patched(tiff: bytes, tag: int, value: int) -> bytes:
    """Write another number into a tag of a TIFF that holds one short."""
    entry = struct.pack("<HHI", tag, 3, 1)
    at = tiff.index(entry) + len(entry)
    return tiff[:at] + struct.pack("<HH", value, 0) + tiff[at + 4 :]


@pytest.mark.parametrize("form", [np.uint16, np.float32])
def test_what_counts_down_from_white_is_not_read_as_a_negative(form: type) -> None:
    top = 4095 if form is np.uint16 else 1
    values = np.rint(RAMP * top).astype(form) if form is np.uint16 else RAMP.astype(form)
    up = decode.decode(save(values, "TIFF"), max_pixels=MAX, value_range=(0, top))
    down = patched(save((top - values).astype(form), "TIFF"), 262, 0)
    assert np.abs(decode.decode(down, max_pixels=MAX, value_range=(0, top)).astype(int) - up).max() <= 1
    assert decode.decode(down, max_pixels=MAX)[0, 0, 0] < decode.decode(down, max_pixels=MAX)[-1, -1, 0]
    opened = [Image.open(io.BytesIO(content)) for content in (down, save(values, "TIFF"))]
    (refused,) = nearfar.check(opened, **FAST).inspection.rejected  # their one range is found later
    assert refused.id == "0" and refused.reason.startswith("counts from white down")
    if form is np.float32:  # what was not measured stays black
        values[0, 0] = np.nan
        holed = patched(save(values, "TIFF"), 262, 0)
        assert decode.decode(holed, max_pixels=MAX)[0, 0].max() == 0


def test_a_clear_value_of_deep_grey_lies_over_white() -> None:
    values = np.full((4, 4), 900, np.uint16)
    values[0] = 77
    png = save(values, "PNG")
    body = b"tRNS" + struct.pack(">H", 77)
    png = png[:33] + struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body)) + png[33:]
    shown = decode.decode(png, max_pixels=MAX, value_range=(0, 4095))
    assert (shown[0] == 255).all() and (shown[1:] == round(900 * 255 / 4095)).all()


def test_a_palette_of_8_bits_in_a_tiff_is_not_black() -> None:
    image = Image.fromarray((RAMP * 255).astype(np.uint8)).convert("P")
    tiff, plain = save_image(image), np.asarray(image.convert("RGB"))
    assert np.array_equal(decode.decode(tiff, max_pixels=MAX), plain)
    at = tiff.index(struct.pack("<HHI", 320, 3, 768)) + 8
    (start,) = struct.unpack_from("<I", tiff, at)
    colours = np.frombuffer(tiff[start : start + 1536], "<u2") >> 8
    small = tiff[:start] + colours.astype("<u2").tobytes() + tiff[start + 1536 :]
    assert np.array_equal(decode.decode(small, max_pixels=MAX), plain)


def save_image(image: Image.Image) -> bytes:
    """Write a TIFF."""
    file = io.BytesIO()
    image.save(file, "TIFF")
    return file.getvalue()


def test_pixels_that_would_be_taken_for_others_are_set_aside() -> None:
    signed = patched(tagged((RAMP * 100).astype(np.uint8), t339=1), 339, 2)
    with pytest.raises(BadImage, match="signed bytes"):
        decode.decode(signed, max_pixels=MAX)
    with pytest.raises(BadImage, match="of a kind that is not read: save it with 8 or 16 bits"):
        decode.decode(patched(save((RAMP * 9).astype(np.uint16), "TIFF"), 258, 24), max_pixels=MAX)


def test_colours_in_planes_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="lie in planes of their own"):
        decode.decode(bad_files.planes(16), max_pixels=MAX)
    assert decode.decode(bad_files.planes(8), max_pixels=MAX)[..., 1].max() == 7


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_fourth_channel_is_transparency_only_where_the_file_says_so(kind: type[np.unsignedinteger]) -> None:
    most = np.iinfo(kind).max
    values = np.zeros((16, 16, 4), kind)
    values[..., 0], values[0, 0, :3] = most // 2, most
    values[..., 3] = np.arange(16) * (most // 16)  # infrared, for instance

    def tiff(extra: int | None) -> bytes:
        """Write 4 channels of RGB without compression; Pillow writes no such file."""
        tags = {
            256: 16, 257: 16, 258: None, 259: 1, 262: 2, 273: None, 277: 4, 278: 16, 279: values.nbytes,
        }  # fmt: skip
        if extra is not None:
            tags[338] = extra
        end = 8 + 2 + 12 * len(tags) + 4
        made = b"II" + struct.pack("<HIH", 42, 8, len(tags))
        for tag, value in tags.items():
            value = {258: end, 273: end + 8}.get(tag, value)
            made += struct.pack("<HHII", tag, 3 if tag in (258, 338) else 4, 4 if tag == 258 else 1, value)
        return made + bytes(4) + struct.pack("<4H", *[8 * values.itemsize] * 4) + values.tobytes()

    for extra in (None, 0):  # not said, and said to be unspecified
        assert (decode.decode(tiff(extra), max_pixels=MAX)[8] == [127, 0, 0]).all()
        assert decode.remarks(tiff(extra), max_pixels=MAX) == ["first 3 channels"]
    assert decode.decode(tiff(2), max_pixels=MAX)[8, 0].tolist() == [255] * 3  # clear, over white
    assert decode.remarks(tiff(2), max_pixels=MAX) == []


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_picture_of_many_bits_is_upright_as_its_file_is(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    values = np.arange(12 * 20, dtype=np.uint16).reshape(12, 20) * 17
    for kind in ("PNG", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(values).save(file, kind, exif=exif)
        held = open_source([Image.open(file)]).read(0)
        wanted = decode.decode(file.getvalue(), max_pixels=MAX, value_range=(0, 4095))
        assert np.array_equal(to_rgb_array(np.asarray(held), (0, 4095)), wanted)
