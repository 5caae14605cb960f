"""Images in: every format and mode comes out right, every kind of bad file is refused with a reason."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bad_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nearfar.core.errors import BadImage
from nearfar.data import folders
from nearfar.images import decode as images
from nearfar.images import header

MAX = bad_files.MAX_PIXELS


def smooth(height: int, width: int) -> np.ndarray:
    """A picture whose corners differ and which survives lossy formats."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // max(1, height - 1), x * 255 // max(1, width - 1), (x + y) % 64], 2).astype(
        np.uint8
    )


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decode(data: bytes | Path, **options: int) -> np.ndarray:
    return images.decode(data, max_pixels=MAX, **options)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_are_exact(kind: str) -> None:
    pixels = smooth(31, 47)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(save(Image.fromarray(pixels), kind, **options)), pixels)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    pixels = smooth(31, 47)
    assert np.array_equal(decode(save(Image.fromarray(pixels), "TIFF", compression=compression)), pixels)


def test_jpeg_colours() -> None:
    pixels = smooth(64, 64)
    pixels[..., 2] = 90
    for options in ({}, {"progressive": True}):
        got = decode(save(Image.fromarray(pixels), "JPEG", quality=97, **options))
        assert np.abs(got.astype(int) - pixels).mean() < 2


def test_cmyk_jpeg_is_not_a_negative() -> None:
    data = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red = decode(data)[8, 8].astype(int)
    assert red[0] > 200 and red[1] < 60 and red[2] < 60


def test_grey_bilevel_and_palette() -> None:
    grey = smooth(9, 17)[..., 1]
    assert np.array_equal(decode(save(Image.fromarray(grey), "PNG")), np.repeat(grey[..., None], 3, 2))
    bits = Image.fromarray(grey).convert("1")
    assert set(np.unique(decode(save(bits, "PNG")))) == {0, 255}
    palette = Image.fromarray(smooth(9, 17)).quantize(16)
    assert np.array_equal(decode(save(palette, "PNG")), np.asarray(palette.convert("RGB")))


def test_transparency_lies_over_white() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:, :2] = (200, 0, 0, 255)
    clear[:, 2] = (0, 0, 0, 128)
    got = decode(save(Image.fromarray(clear), "PNG"))
    assert got[0, 0].tolist() == [200, 0, 0] and got[0, 3].tolist() == [255] * 3
    assert abs(int(got[0, 2, 0]) - 127) <= 1
    grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    assert decode(save(grey, "PNG"))[0, :, 0].tolist() == [10, 255]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert decode(save(palette, kind, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(save(Image.fromarray(deep), kind))[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-1.0, np.nan, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[0, 7, 200]], np.int32), [0, 7, 200]),
        (np.array([[0, 256, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 500_000, 1_000_000]], np.int32), [0, 128, 255]),
    ],
)
def test_wide_integers_and_floats(values: np.ndarray, wanted: list[int]) -> None:
    assert decode(save(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(kind: str, turn: int) -> None:
    upright = smooth(40, 56)
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud}
    undo |= {5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1)}
    undo |= {7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = Image.fromarray(np.ascontiguousarray(undo[turn](upright)))
    got = decode(save(stored, kind, exif=exif))
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright)[..., :2].mean() < 8
    small = decode(save(stored, kind, exif=exif), short_side=10)
    assert small.shape == (10, 14, 3) and small[0, 0, 0] < 60 < 180 < small[-1, 0, 0]


def test_a_broken_exif_block_does_no_harm() -> None:
    data = save(Image.fromarray(smooth(20, 20)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape == (20, 20, 3)


def test_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    for kind in ("GIF", "TIFF", "PNG"):
        assert decode(save(frames[0], kind, save_all=True, append_images=frames[1:]))[0, 0].tolist() == [
            250,
            0,
            0,
        ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.sampled_from(["JPEG", "PNG"]))
def test_short_side(height: int, width: int, short: int, kind: str) -> None:
    got = decode(save(Image.fromarray(smooth(height, width)), kind), short_side=short)
    if min(height, width) <= short:
        assert got.shape == (height, width, 3)
    else:
        assert min(got.shape[:2]) == short
        assert abs(max(got.shape[:2]) - max(height, width) * short / min(height, width)) <= 1


def test_reducing_a_jpeg_in_the_decoder_gives_nearly_the_same() -> None:
    data = save(Image.fromarray(smooth(480, 640)), "JPEG", quality=95)
    slow = images.shrink(decode(data), 50)
    fast = decode(data, short_side=50)
    assert fast.shape == slow.shape and np.abs(fast.astype(int) - slow)[..., :2].mean() < 1.5


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "really.gif").write_bytes(save(Image.fromarray(smooth(5, 6)), "PNG"))
    assert images.picture(tmp_path / "really.gif", max_pixels=MAX).format == "PNG"


def test_a_limit_above_pillows_own_is_ours_alone() -> None:
    data = bad_files.png(20_000, 10_000, b"")
    assert header.stored_shape(data, max_pixels=10**9) == (10_000, 20_000)
    with pytest.raises(BadImage, match="over the limit of 199,999,999 pixels: 20000 x 10000"):
        header.stored_shape(data, max_pixels=199_999_999)
    assert decode(save(Image.new("L", (MAX, 1)), "PNG")).shape == (1, MAX, 3)


def test_every_bad_file_has_a_reason(tmp_path: Path) -> None:
    names = bad_files.write(tmp_path)
    assert len(names) >= 30 and folders.find(tmp_path) == names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in names:
            for short in (None, 8):
                with pytest.raises(BadImage) as caught:
                    images.decode(tmp_path / name, max_pixels=MAX, short_side=short)
                reason = str(caught.value)
                assert 5 < len(reason) < 120 and "\n" not in reason and "Error" not in reason
                if name.startswith(
                    ("zero_bytes", "cut_half.jpg", "cut_half.png", "cut_half.gif", "cut_half.bmp")
                ):
                    assert reason == ("empty file" if "zero" in name else "truncated")
                if name.startswith(("bomb", "over")):
                    assert reason.startswith("over the limit")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"]), st.data())
def test_damage_gives_pixels_or_one_reason(kind: str, data: st.DataObject) -> None:
    whole = bytearray(bad_files.encoded(kind, 24, 16))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(whole)))
    try:
        assert decode(bytes(whole[:cut])).dtype == np.uint8
    except BadImage as error:
        assert str(error)


def test_threads_decode_the_same_and_leave_the_warnings_alone() -> None:
    before = list(warnings.filters)
    files = [save(Image.fromarray(smooth(20 + i, 30)), "JPEG") for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(decode, files))
    assert all(np.array_equal(decode(data), got) for data, got in zip(files, parallel, strict=True))
    assert warnings.filters == before


def test_find_survives_loops_odd_names_and_hidden_files(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "b" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    odd = ["a b.JPG", "ünïcødé.png", "图片.webp", "new\nline.gif", "-rf.jpeg", "emoji🦊.Tiff"]
    raw = os.fsdecode(b"latin\xe9.jpg")
    for name in [*odd, raw, ".hidden.jpg", "._a.jpg", "notes.txt", "jpg", "table.csv", "x.jpg.part"]:
        (top / name).touch()
    (top / "b" / "deep" / "deeper" / "z.png").touch()
    (top / ".git").mkdir()
    (top / ".git" / "x.png").touch()
    (tmp_path / "outside" / "o.png").touch()
    (top / "b" / "up").symlink_to("..")
    (top / "a_loop").symlink_to(".")
    (top / "parent").symlink_to(tmp_path)
    (top / "same").symlink_to("b/deep")
    (top / "link").symlink_to(tmp_path / "outside")
    (top / "round").symlink_to("round")
    assert folders.find(top, others := Counter()) == sorted([*odd, raw, "b/deep/deeper/z.png", "link/o.png"])
    assert others == {".txt": 1, folders.NO_ENDING: 1, ".csv": 1, ".part": 1}
    assert folders.find(tmp_path / "outside") == ["o.png"]


def test_a_folder_that_cannot_be_entered_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png/in.png", "b/in.png", "locked/in.png", "locked.png/in.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir = os.scandir

    def refusing(path: str | Path) -> object:
        if "locked" in str(path):
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert folders.find(tmp_path) == ["a.png", "a.png/in.png", "b/in.png", "locked", "locked.png"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_up_to_twice_the_side_will_do_where_that_is_enough(kind):
    for width, height, wanted in ((500, 375, 375), (600, 520, 512), (4000, 3000, 512), (100, 90, 90)):
        file = io.BytesIO()
        Image.new("RGB", (width, height), (9, 99, 199)).save(file, kind)
        exact = images.decode(file.getvalue(), max_pixels=10**8, short_side=256)
        about = images.decode(file.getvalue(), max_pixels=10**8, short_side=256, exact=False)
        assert min(exact.shape[:2]) == min(256, height)
        assert min(256, height) <= min(about.shape[:2]) <= wanted
        assert abs(about.shape[1] / about.shape[0] - width / height) < 0.01
        assert np.abs(about.astype(int).mean((0, 1)) - exact.astype(int).mean((0, 1))).max() < 1


def test_a_progressive_jpeg_of_very_many_scans_is_refused_unread() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert images.decode(data, max_pixels=10**6).shape == (64, 64, 3)
    last = data.rfind(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 40_000 + data[-2:]
    with pytest.raises(BadImage, match=r"over the limit of 200 scans: 40,0"):
        images.decode(bomb, max_pixels=10**6)


def test_scans_times_pixels_are_bounded_so_that_no_file_takes_minutes() -> None:
    data = save(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    at = data.rfind(b"\xff\xda")
    many = data[:at] + data[at:-2] * 60 + b"\xff\xd9"  # 70 scans
    assert decode(many).shape == (64, 64, 3)
    large = bytearray(many)
    frame = large.find(b"\xff\xc2")
    large[frame + 5 : frame + 9] = (8000).to_bytes(2, "big") * 2  # 64 million pixels, 31 scans at most
    with pytest.raises(BadImage, match="over the limit of 31 scans"):
        images.decode(bytes(large), max_pixels=10**8)


def test_what_takes_a_decoder_minutes_is_refused_unread() -> None:
    body = zlib.compress(bytes(10))
    grey = {256: (10,), 257: (10,), 258: (8,), 259: (8,), 262: (1,), 277: (1,)}
    tiles = grey | {322: (60_000,), 323: (60_000,), 324: (8,), 325: (len(body),)}
    with pytest.raises(BadImage, match="pixels in its tiles: 60000 x 60000"):
        decode(bad_files.tiff(tiles, body))
    body = bytes(2_000_000)
    shared = grey | {273: (8,) * 10, 278: (1,), 279: (len(body),) * 10}
    with pytest.raises(BadImage, match="strips share their bytes"):
        decode(bad_files.tiff(shared, body))
    scans = grey | {259: (7,), 262: (6,), 258: (8, 8, 8), 277: (3,), 273: (8,), 278: (10,), 279: (9000,)}
    with pytest.raises(BadImage, match="over the limit of 200 scans: 4,500"):
        decode(bad_files.tiff(scans, b"\xff\xda" * 4500))
    packed = bytearray(save(Image.new("P", (8, 8)), "BMP"))
    packed[18:26], packed[30] = struct.pack("<ii", 9000, 9000), 1
    for data, said in (
        (b"P3 9000 9000 255 " + b"1 " * 99, "PPM in plain text"),
        (b"P6 9000 9000 100 " + bytes(99), "PPM of an unusual depth"),
        (bytes(packed), "packed BMP"),
    ):
        with pytest.raises(BadImage, match=f"over the limit of 33,554,432 values for a {said}"):
            images.decode(data, max_pixels=10**8)
    with pytest.raises(BadImage, match="truncated"):  # of the usual depth Pillow reads it quickly
        images.decode(b"P6 9000 9000 255 " + bytes(99), max_pixels=10**8)


def test_a_png_with_a_large_colour_profile_or_text_is_read() -> None:
    from PIL.PngImagePlugin import PngInfo

    picture = Image.fromarray(smooth(8, 9))
    notes = PngInfo()
    notes.add_text("comment", "x" * 3_000_000, zip=True)
    data = save(picture, "PNG", icc_profile=bytes(2_000_000), pnginfo=notes)
    with pytest.raises(ValueError):  # what Pillow alone says
        Image.open(io.BytesIO(data)).load()
    assert np.array_equal(decode(data), smooth(8, 9))
    assert header.stored_shape(data, max_pixels=MAX) == (8, 9)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = save(picture, "PNG", exif=exif, icc_profile=b"p")
    assert np.array_equal(decode(turned), smooth(8, 9)[::-1, ::-1])
    assert header.without_texts(save(picture, "PNG")) == save(picture, "PNG")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\xff\x0a", "JPEG XL .* djxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 .* opj_decompress"),
        (bytes(128) + b"DICM", "DICOM .* pydicom"),
        (b"\0\0\0\x18ftypheic", "HEIC .* heif-convert"),
        (b"what?", "not an image"),
    ],
)
def test_pictures_that_are_not_read_are_named_with_what_reads_them(start: bytes, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        decode(start + bytes(200))


def test_files_passed_over_are_counted_by_their_endings(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jp2", "in/c.JP2", "d", "e.txt", ".hidden.jxl", "in/f.dcm"):
        (tmp_path / name).write_bytes(b"x")
    others: Counter[str] = Counter()
    assert folders.find(tmp_path, others) == ["a.png"] == folders.find(tmp_path)
    assert others == {".jp2": 2, "no ending": 1, ".txt": 1, ".dcm": 1}
    said = folders.told(others)
    assert said[0] == "5 other files: .jp2 2, .dcm 1, .txt 1, no ending 1"
    assert "opj_decompress" in said[1] and "pydicom" in said[2] and len(said) == 3
    assert not folders.told({})


def test_a_name_that_cannot_be_a_file_is_said_to_be_so(tmp_path: Path) -> None:
    for name, words in (("a\ud800.png", "half of a surrogate pair"), ("a\0.png", "holds a zero byte")):
        with pytest.raises(BadImage, match=words):
            images.read(tmp_path / name, max_pixels=100)
