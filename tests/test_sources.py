"""Whatever a user calls "my images" opens, and whatever does not says in one sentence what to type."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sources import add, folder, png, red, refuses  # noqa: F401

from nearfar.core.errors import NearfarError
from nearfar.data import hubs
from nearfar.data import source as kinds
from nearfar.data.box_labels import open_box_labels
from nearfar.data.inspection import inspect
from nearfar.data.names import Names
from nearfar.data.open import open_data
from nearfar.data.pixel_labels import open_pixel_labels
from nearfar.data.source import Source
from nearfar.data.sources import open_source
from nearfar.queries.image_folder import image_folder


def test_a_folder_with_and_without_labels(folder: Path) -> None:
    source = open_source(folder)
    assert list(source.ids) == ["cat/1.png", "cat/deep/2.png", "dog/1.png"] and source.labels is None
    assert [red(source, i) for i in range(3)] == [0, 1, 2]
    refuses(folder, "2 classes", "--label-level 1", "3 classes", labels=True)
    (folder / "cat" / "deep" / "2.png").rename(folder / "cat" / "2.png")
    assert open_source(str(folder), labels=True).labels == ("cat", "cat", "dog")
    (folder / "loose.png").write_bytes(png(9))
    assert len(open_source(folder)) == 4
    refuses(folder, "1 file outside", "'loose.png'", labels=True)


def test_ids_are_valid_utf8_and_stamps_follow_the_file(tmp_path: Path) -> None:
    raw = os.fsdecode(b"caf\xe9.png")
    (tmp_path / raw).write_bytes(png(7))
    source = open_source(tmp_path)
    assert list(source.ids) == ["caf\\xe9.png"] and red(source, 0) == 7
    before = source.stamp(0)
    several = kinds.FileSource("two", ("", ""), None, tmp_path, (raw, str(tmp_path / raw)))
    assert several.stamp_rows(range(2)) == [before, before] == [several.stamp(row) for row in range(2)]
    (tmp_path / raw).write_bytes(png(7) + b" ")
    assert source.stamp(0) != before
    (tmp_path / raw).unlink()
    assert source.stamp(0) == "missing"


def test_wrong_paths_say_what_to_type(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").touch()
    (tmp_path / "x.docx").touch()
    (tmp_path / "x.tar.gz").touch()
    refuses(tmp_path / "empty", "there is no image in", "JPEG or PNG")
    refuses(tmp_path / "tars", "'" + str(tmp_path / "tars") + "/*.tar'")
    refuses(folder / "cat" / "1.png", "is one image; give the folder")
    refuses(tmp_path / "x.docx", "not a list of images")
    refuses(tmp_path / "x.tar.gz", "unpack it first")
    refuses(tmp_path / "pest", "did you mean pets")
    refuses("cifar11", "did you mean cifar10")
    refuses("cifar10:validation", "no split 'validation'")
    refuses("https://example.org/photos", "web servers list nothing")
    refuses(" ", "is empty")
    refuses("nul\0byte", "there is no")
    refuses("~nobody-of-this-name/photos", "there is no '~nobody")
    refuses(42, "taken from a int")
    refuses({"a": 1}, "taken from a dict")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "mine.png").write_bytes(png(3))
    assert list(open_source("cifar10").ids) == ["mine.png"]
    (tmp_path / "~no-such-user").mkdir()
    (tmp_path / "~no-such-user" / "kept.png").write_bytes(png(3))
    assert list(open_data("~no-such-user").ids) == ["kept.png"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(open_data("~/cifar10").ids) == ["mine.png"]


def test_an_empty_name_is_not_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a variable that is not set: what is there was trained on, or made a store of."""
    (folder / "x.xml").touch()
    monkeypatch.chdir(folder)
    for opened in (open_data, open_box_labels, open_pixel_labels, image_folder):
        with pytest.raises(NearfarError, match="name of a file or folder is empty; give one, such as"):
            opened("")
    for opened in (open_box_labels, open_pixel_labels):
        for given in (None, ["a.png"], (np.zeros((2, 8, 8, 3), np.uint8), [0, 1])):
            with pytest.raises(NearfarError, match=f"cannot be taken from a {type(given).__name__}"):
                opened(given)


class _Slow(Source):
    """Answers late, and the later rows of a stretch first."""

    def read(self, index: int) -> Path:
        return Path(str(index))

    def stamp(self, index: int) -> str:
        time.sleep(0.001 * (-index % 4))
        return f"{index}:{threading.current_thread() is threading.main_thread()}"


def test_very_many_files_are_looked_up_as_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = ["a.png", "ü.png", "caf\udce9.png", "gone.png", "a.png\0b", "x" * 5000, "a.png/"]
    odd.append(str(tmp_path / "ü.png"))
    for number, name in enumerate(odd[:3]):
        (tmp_path / name).write_bytes(b"x" * (number + 1))
        os.utime(tmp_path / name, ns=(0, -1_500_000_001 + 10**18 * number))  # also before 1970
    (tmp_path / "link.png").symlink_to("a.png")
    names = [*odd, "link.png", "../" + tmp_path.name + "/a.png"]
    source = kinds.FileSource("names", tuple(names), None, tmp_path, Names.of(names))
    alone = [source.stamp(row) for row in range(len(names))]
    assert len({*alone}) == 4 and alone.count("missing") == 4
    monkeypatch.setattr("nearfar.data.source._MANY", 1)
    assert source.stamp_rows(range(len(names))) == alone
    assert source.stamp_rows(range(2, 5)) == alone[2:5]
    if sys.platform == "linux":  # where it is not Python that answers
        from nearfar.data.file_stats import sizes_and_times

        found = sizes_and_times(tmp_path, Names.of(names), range(len(names)))
        assert found is not None and [*found[0][:3]] == [1, 2, 3]
    monkeypatch.setitem(sys.modules, "nearfar.data.file_stats", None)  # without numba
    assert source.stamp_rows(range(len(names))) == alone


def test_a_spoilt_cache_of_the_compiled_look_is_made_again(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from nearfar.data import file_stats as f; "
        "from nearfar.data.names import Names; "
        "print(f.sizes_and_times(Path(sys.argv[1]), Names.of(['a']), range(1))[0])"
    )
    (tmp_path / "a").write_bytes(b"xyz")
    cache = tmp_path / "cache"
    for _ in range(2):
        env = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True
        )
        assert done.stdout == "[3]\n", done.stderr
        files = [file for file in cache.rglob("*.nb[ci]") if "_look" in file.name]
        assert files
        for file in files:
            file.write_bytes(file.read_bytes()[:40])


@pytest.mark.parametrize("slow", [0.0, 1e9])
def test_every_row_is_stamped_once_and_in_order(slow: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_PART", 7)
    monkeypatch.setattr(kinds, "_SLOW", slow)
    source = _Slow("slow", [f"image {row}" for row in range(50)], None)
    made = list(kinds.stamps(source))
    assert [row for rows, _ in made for row in rows] == list(range(50))
    # The first part shows how slow the disk is; the others then go to threads, or stay where they are.
    here = [row < 7 or slow > 0 for row in range(50)]
    assert [stamp for _, part in made for stamp in part] == [f"{row}:{here[row]}" for row in range(50)]
    assert not list(kinds.stamps(_Slow("none", [], None)))


@pytest.mark.parametrize(
    "shape", [(4, 8, 9), (4, 8, 9, 1), (4, 8, 9, 3), (4, 8, 9, 4), (4, 3, 8, 9), (4, 1, 8, 9)]
)
@pytest.mark.parametrize("form", ["array", "tensor", "npy", "npz"])
def test_arrays(shape: tuple[int, ...], form: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data: object = torch.from_numpy(pixels) if form == "tensor" else pixels
    if form == "npy":
        np.save(tmp_path / "x.npy", pixels)
        data = tmp_path / "x.npy"
    if form == "npz":
        np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(4) % 2)
        data = tmp_path / "x.npz"
        assert open_source(data, labels=True).labels == ("0", "1", "0", "1")
    source = open_source(data)
    wanted = pixels[2]
    if len(shape) == 3:
        wanted = wanted[..., None]
    elif shape[1] in (1, 3):
        wanted = wanted.transpose(1, 2, 0)
    if wanted.shape[2] == 4:
        alpha = wanted[..., 3:] / 255
        wanted = np.rint(wanted[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    got = source.read(2)
    assert got.shape == (8, 9, 3) and np.abs(got.astype(int) - wanted).max() <= (shape[-1] == 4)
    assert list(source.ids) == ["0", "1", "2", "3"] and source.stamp(2) != source.stamp(1)


def test_arrays_that_are_none(tmp_path: Path) -> None:
    refuses(np.zeros((4, 8, 8, 3), np.complex64), "pass real numbers")
    refuses(np.zeros((8, 8, 3), np.uint8), "looks like one image")
    refuses(np.zeros((4, 5, 8, 8), np.uint8), "(4, 5, 8, 8)")
    refuses(np.zeros((0, 8, 8, 3), np.uint8), "it holds no images")
    refuses((np.zeros((3, 8, 8, 3), np.uint8), [1, 2]), "3 images but 2 labels", labels=True)
    refuses(np.zeros((3, 8, 8, 3), np.uint8), "pass the pair", labels=True)
    pair = (np.zeros((3, 8, 8, 3), np.uint8), torch.tensor([2, 0, 1]))
    assert open_source(pair, labels=True).labels == ("2", "0", "1") and open_source(pair).labels is None
    refuses(open_source(pair), "opened without labels", labels=True)
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refuses(tmp_path / "o.npy", "cannot be read as NumPy arrays")
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 torn")
    refuses(tmp_path / "t.npz", "cannot be read as NumPy arrays")
    np.savez(tmp_path / "u.npz", pixels=np.zeros((3, 8, 8, 3), np.uint8))
    refuses(tmp_path / "u.npz", "no array 'images' (it has pixels)")


MASKS = {
    "a.png": "a.mask.png a_mask.png a-seg.png a_segmentation.png a.gt.png a_mask_2.png",
    "b.image.png": "b.mask.png",
    "c/d.v1.jpg": "c/d.v1.mask.png",
    "images/e.jpg": "masks/e.png",
    "test/crack/0.png": "ground_truth/crack/0_mask.png",
}
NO_MASKS = ["mask.png", "face_mask.png", "masks/alone.png", "c/a_mask.png", "unmasked.png", "with_mask/e.jpg"]


def test_masks_beside_images_are_left_out_and_named(tmp_path: Path) -> None:
    images = sorted([*MASKS, *NO_MASKS])
    masks = sorted(" ".join(MASKS.values()).split())
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        for value, name in enumerate([*images, *masks]):
            (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "m" / name).write_bytes(png(value))
            add(tar, name, png(value))
    source, shard = open_source(tmp_path / "m"), open_source(tmp_path / "m.tar")
    assert list(source.ids) == images and list(source.masks) == masks
    assert list(shard.ids) == [f"m.tar/{name}" for name in images]
    assert list(shard.masks) == [f"m.tar/{name}" for name in masks]
    found = inspect(source, max_pixels=10_000, threads=1)
    assert found.to_json()["masks"] == tuple(masks) and "left out    10 masks" in str(found)
    (tmp_path / "list.txt").write_text("m/a.png\nm/a.mask.png\n")
    assert len(open_source(tmp_path / "list.txt")) == 2


def test_a_named_set_as_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_DATA", str(tmp_path))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, 2, 28, 28) + pixels.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 2) + bytes([7, 3]))
    source = open_source("mnist:test", labels=True)
    assert source.labels == ("7 - seven", "3 - three") and source.read(1).shape == (28, 28, 3)
    refuses("cifar10", "not in", "allow its download", download=False)


def test_a_named_set_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_DATA", str(tmp_path))
    base = tmp_path / "food-101"
    (base / "meta").mkdir(parents=True)
    (base / "images" / "soup").mkdir(parents=True)
    (base / "meta" / "train.json").write_text(json.dumps({"soup": ["soup/1"], "pie": ["pie/2"]}))
    (base / "images" / "soup" / "1.jpg").write_bytes(png(5))
    source = open_source("food101", labels=True)
    assert source.labels == ("soup", "pie") and source.ids[0] == "food-101/images/soup/1.jpg"
    assert red(source, 0) == 5


def test_a_named_set_whose_classes_have_several_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import Imagenette

    monkeypatch.setenv("NEARFAR_DATA", str(tmp_path))
    for value, name in enumerate(Imagenette._WNID_TO_CLASS):
        (tmp_path / "imagenette2" / "train" / name).mkdir(parents=True)
        (tmp_path / "imagenette2" / "train" / name / "1.JPEG").write_bytes(png(value))
    source = open_source("imagenette", labels=True)
    assert source.labels is not None and source.labels[0] == "tench" and len(set(source.labels)) == 10


def test_every_named_set_is_one_of_torchvisions() -> None:
    import torchvision.datasets

    assert all(hasattr(torchvision.datasets, kind) for kind, _ in hubs.TORCHVISION.values())


def test_hugging_face(tmp_path: Path) -> None:
    try:
        import datasets
    except ImportError:
        refuses("hf:org/name", "pip install 'nearfar[hf]'")
        return
    cells = [{"bytes": png(4), "path": None}, {"bytes": png(8), "path": None}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict({"image": cells, "label": [1, 0]}, features=features)
    (tmp_path / "set").mkdir()
    made.to_parquet(str(tmp_path / "set" / "train.parquet"))
    source = open_source(f"hf:{tmp_path / 'set'}", labels=True)
    assert source.labels == ("b", "a") and [red(source, 0), red(source, 1)] == [4, 8]
    refuses(f"hf:{tmp_path / 'set'}:test", "cannot be opened")
    (tmp_path / "bare").mkdir()
    bare = datasets.Dataset.from_dict({"image": cells, "label": [-1, -1]}, features=features)
    bare.to_parquet(str(tmp_path / "bare" / "train.parquet"))
    assert open_source(f"hf:{tmp_path / 'bare'}").labels is None
    with pytest.raises(NearfarError, match=r"for 2 of its 2 images, such as image 1 \('-1' means none\)"):
        open_source(f"hf:{tmp_path / 'bare'}", labels=True)


def test_a_folder_says_which_files_it_passes_over(tmp_path: Path) -> None:
    (tmp_path / "scan.jp2").write_bytes(b"x")
    refuses(tmp_path, "there is no image in", ".jp2 1", "opj_decompress")
    (tmp_path / "a.png").write_bytes(png(3))
    assert open_source(tmp_path).others == {".jp2": 1}


def test_names_of_classes_that_look_alike_are_one(tmp_path: Path) -> None:
    for place in ("caf\u00e9", "cafe\u0301"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{len(place)}.png").write_bytes(png(1))
    assert set(open_source(tmp_path, labels=True).labels or ()) == {"caf\u00e9"}
    rows = ["caf\u00e9\u200b", "\ufeffcafe\u0301", "\u00a0caf\u00e9\u2003"]
    (tmp_path / "0.png").touch()
    text = "".join(f"{at}.png\t{row}\n" for at, row in enumerate(rows))
    (tmp_path / "list.tsv").write_text("path\tlabel\n" + text)
    assert set(open_source(tmp_path / "list.tsv", labels=True).labels or ()) == {"caf\u00e9"}
