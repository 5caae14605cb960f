"""Labels by folders: one reading is taken, two are asked about, and splits are no classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.data.labels import by_level, from_list, of_folders, splits
from nearfar.data.sources import open_source

DEEP = ["fruit/apple/1.png", "fruit/apple/2.png", "fruit/pear/1.png", "dairy/milk/1.png"]


def tree(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a/1.png", "b/1.png"], ("a", "b")),
        (["a/images/1.png", "b/images/1.png"], ("a", "b")),  # the innermost folders name no class
        (["a/images/1.png", "b/images/1.png", "train/images/1.png"], ("a", "b", "train")),
    ],
)
def test_one_reading_is_taken(names: list[str], labels: tuple[str, ...]) -> None:
    assert of_folders("x", names) == labels


def test_two_readings_are_asked_about(tmp_path: Path) -> None:
    root = tree(tmp_path / "food", DEEP)
    with pytest.raises(NearfarError) as error:
        open_source(root, labels=True)
    said = str(error.value)
    assert "--label-level 1 takes the first folders, 2 classes (dairy, fruit)" in said
    assert "--label-level -1 the innermost folders, 3 classes (apple, milk, pear)" in said
    plain = open_source(root)
    assert plain.labels is None and plain.ids[0] == "dairy/milk/1.png"
    assert by_level(plain, 1).labels == ("dairy", "fruit", "fruit", "fruit")
    assert by_level(plain, -1).labels == by_level(plain, 2).labels == ("milk", "apple", "apple", "pear")
    with pytest.raises(NearfarError, match="holds 4 files in fewer than 3 folders"):
        by_level(plain, 3)
    with pytest.raises(NearfarError, match="--label-level 0 names no folder"):
        by_level(plain, 0)
    with pytest.raises(NearfarError, match="--label-level is for folders"):
        by_level(open_source(np.zeros((2, 8, 8, 3), np.uint8)), 1)


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "validation"), ("train", "val", "test")])
def test_splits_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    flat = tree(tmp_path / "flat", [f"{name}/1.png" for name in names])
    with pytest.raises(NearfarError, match=r"are splits, not classes: .* \(1\).*; give one of them") as error:
        open_source(flat, labels=True)
    assert "--label-level" not in str(error.value)
    deep = tree(tmp_path / "deep", [f"{name}/{kind}/1.png" for name in names for kind in "ab"])
    with pytest.raises(NearfarError, match=r"--label-level -1 for the classes in all of them \(2 classes"):
        open_source(deep, labels=True)
    assert [Path(part).name for part in splits(deep)] == [names[0], names[-1]]


def test_a_parent_without_both_splits(tmp_path: Path) -> None:
    root = tree(tmp_path / "food", ["train/a/1.png", "other/a/1.png"])
    for place in (root, tmp_path / "nowhere"):
        with pytest.raises(NearfarError, match="has no folders train and test, so --test is missing"):
            splits(place)


def test_labels_from_a_list(tmp_path: Path) -> None:
    root = tree(tmp_path / "photos", ["1.png", "2.png", "3.png"])
    (tmp_path / "labels.csv").write_text("path,label\nphotos/1.png,a\nphotos/2.png,b\n3.png,c\n")
    with pytest.raises(NearfarError, match=r"labels.csv has no label for 1 of the 4 images .* '4.png'"):
        from_list(open_source(tree(root, ["4.png"])), tmp_path / "labels.csv")
    (root / "4.png").unlink()
    assert from_list(open_source(root), tmp_path / "labels.csv").labels == ("a", "b", "c")


def test_evaluate_takes_a_parent_a_level_and_a_list(tmp_path: Path) -> None:
    names = [
        f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "ab" for number in "123"
    ]
    root = tree(tmp_path / "x", names)
    run = nearfar.pretrain(
        root,
        out=tmp_path / "run",
        steps=1,
        batch_size=4,
        encoder="resnet10_w16",
        device="cpu",
        precision="float32",
        health_checks=0,
    )
    plain = {"baselines": ()}
    both = nearfar.evaluate(run, train=root, **plain)
    named = nearfar.evaluate(run, train=root / "train", test=root / "test", **plain)
    assert both.data == named.data and both.ids == named.ids and both.classes == ("a", "b")
    deeper = tree(tmp_path / "y", [name.replace("/a/", "/z/a/").replace("/b/", "/z/b/") for name in names])
    with pytest.raises(NearfarError, match="--label-level -1"):
        nearfar.evaluate(run, train=deeper, **plain)
    level = nearfar.evaluate(run, train=deeper, label_level=-1, **plain)
    assert level.classes == ("a", "b") and level.images["train"] == 6
    lines = [f"x/{name},{'odd' if name[-5] in '13' else 'even'}" for name in names]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines]))
    listed = nearfar.evaluate(run, train=root, labels=tmp_path / "labels.csv", **plain)
    assert listed.classes == ("even", "odd")
    with pytest.raises(NearfarError, match="exclude each other"):
        nearfar.evaluate(run, train=root, labels=tmp_path / "labels.csv", label_level=1, **plain)
    with pytest.raises(NearfarError, match="there are no test images"):
        nearfar.evaluate(run, train=(np.zeros((4, 8, 8, 3), np.uint8), [0, 0, 1, 1]), **plain)
