"""Lists that name files without their folder, without their ending, or without both."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_store import INFO, table

from nearfar.core.errors import NearfarError
from nearfar.data.groups import number_groups, read_groups
from nearfar.data.identity_labels import open_identities
from nearfar.data.labels import open_labelled
from nearfar.data.named_files import look_up
from nearfar.data.open import open_data
from nearfar.finetuning.many_labels import open_many
from nearfar.stores import open_store
from nearfar.stores.columns import read_columns


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), len(name), np.uint8)).save(root / name)
    return root


def listed(root: Path, name: str, *lines: str) -> Path:
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_a_list_of_names_finds_its_files_in_the_folder_beside_it(tmp_path: Path, suffix: str) -> None:
    images(tmp_path, "photos/1a.png", "photos/2b.png", "photos/3c.png", "other/9.png")
    (tmp_path / "photos/1a.txt").write_text("a note beside an image is not meant")
    rows = (f"{name}{suffix},{label}" for name, label in (("1a", "cat"), ("2b", "dog"), ("3c", "cat")))
    source = open_data(listed(tmp_path, "labels.csv", "id,breed", *rows), labels=True)
    assert source.ids == ["photos/1a.png", "photos/2b.png", "photos/3c.png"]
    assert source.labels == ("cat", "dog", "cat")
    assert source.read(1).is_file()


def test_a_list_about_train_does_not_read_test(tmp_path: Path) -> None:
    images(tmp_path, "train/1.png", "test/1.png", "train/2.png", "test/2.png")
    assert open_data(listed(tmp_path, "train.csv", "id", "1", "2")).ids == ["train/1.png", "train/2.png"]
    with pytest.raises(NearfarError, match="names 1, which may be test/1.png or train/1.png; write which"):
        open_data(listed(tmp_path, "all.csv", "id", "1", "2"))


def test_one_name_of_two_files_is_refused_and_one_of_none_stays(tmp_path: Path) -> None:
    images(tmp_path, "p/1.png", "p/1.jpg", "p/2.png")
    with pytest.raises(NearfarError, match=r"which may be p/1\.(png or p/1\.jpg|jpg or p/1\.png)"):
        open_data(listed(tmp_path, "a.csv", "id", "1"))
    assert open_data(listed(tmp_path, "b.csv", "id", "2", "3")).ids == ["p/2.png", "3"]
    with pytest.raises(NearfarError, match=r"none of the files of .*c\.csv is there, such as 3"):
        open_data(listed(tmp_path, "c.csv", "id", "3"))
    with pytest.raises(NearfarError, match="if these are texts, add --modality text"):
        open_data(listed(tmp_path, "d.txt", "A sentence of some words.", "Another one"))
    for name, line in (("d.txt", "A sentence of some words."), ("e.txt", "7")):  # as embed opens them
        with pytest.raises(NearfarError) as caught:
            open_data(listed(tmp_path, name, line), expected="images")
        assert "--modality" not in str(caught.value) and str(caught.value).endswith(".")


def test_labels_elsewhere_are_joined_by_short_names(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a/1.png", "b/2.png")
    (tmp_path / "lists").mkdir()
    for rows in (("1,x", "2,y"), ("1.png,x", "2.png,y"), ("a/1,x", "b/2,y"), ("a/1.png,x", "b/2.png,y")):
        names = listed(tmp_path / "lists", "labels.csv", "id,label", *rows)
        assert open_labelled(photos, "images", labels=names).labels == ("x", "y")
        assert open_many(photos, "images", names)[1] == [("x",), ("y",)]
        groups = listed(tmp_path / "lists", "groups.csv", "id,group", *rows)
        source = open_data(photos)
        assert number_groups(str(groups), source, source.ids).tolist() == [0, 1]
        who = listed(tmp_path / "lists", "who.csv", "path,identity", *rows)
        assert open_identities(photos, labels=who).identities == ("x", "y")


def test_a_short_name_that_two_share_is_nobodys() -> None:
    assert look_up({"1.png": "x", "2": "y"}, ["1.png", "a/1.png", "a/2.png"], []) == ["x", None, "y"]
    assert look_up({"1.png": "x"}, ["a/1.png", "b/1.png"], []) == [None, None]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("form", ["windows", "macos"])
@pytest.mark.parametrize("below", ["", "photos/"])
def test_every_list_knows_names_as_other_systems_write_them(
    encoding: str, form: str, below: str, tmp_path: Path
) -> None:
    if (encoding, form) == ("cp1252", "macos"):
        return  # has no accents taken apart
    photos = images(tmp_path / "photos", "a/für.png", "b/2.png")
    names = [f"{below}{name}" for name in ("a/für.png", "b/2.png")]
    if form == "windows":
        names = [name.replace("/", "\\") for name in names]
    else:
        names = [unicodedata.normalize("NFD", name) for name in names]

    def listed_as(head: str) -> Path:
        file = tmp_path / "list.csv"
        rows = [f"{name};{word}" for name, word in zip(names, ("ö", "y"), strict=True)]
        file.write_bytes("\r\n".join([f"path;{head}", *rows, ""]).encode(encoding))
        return file

    assert open_labelled(photos, "images", labels=listed_as("label")).labels == ("ö", "y")
    assert open_many(photos, "images", listed_as("labels"))[1] == [("ö",), ("y",)]
    assert open_identities(photos, labels=listed_as("identity")).identities == ("ö", "y")
    assert {*read_groups(listed_as("group")).of.values()} == {"ö", "y"}
    source = open_data(photos)
    assert number_groups(str(listed_as("group")), source, source.ids).tolist() == [0, 1]
    store = open_store(str(tmp_path / "s.nf"), INFO)
    store.upsert(table([*source.ids], path=[str(photos / name) for name in source.ids]))
    assert read_columns(listed_as("site")).join(store) == 2
    assert store.rows(["site"])["site"].to_pylist() == ["ö", "y"]
