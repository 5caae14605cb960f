"""Files of predictions and columns of stores: no two images share a file, no two classes a column."""

from __future__ import annotations

from nearfar.finetuning.prediction_files import file_names, put_files
from nearfar.stores import schema


def test_images_of_one_stem_keep_their_masks_apart(tmp_path):
    ids = ["a/x.jpg", "a/x.png", "a/y.png", "b/x.png", "../a/y.tif", "/a/x.png", "A/Y.gif", "..", "a/z"]
    names = file_names(ids)
    assert names[:4] == ["a/x.jpg", "a/x.png", "a/y.png", "b/x"] and names[8] == "a/z"
    assert len({name.casefold() for name in names}) == len(ids)
    assert not any(".." in name.split("/") or name.startswith("/") for name in names)
    for at, name in enumerate(names):
        put_files(tmp_path / "found", name, {".png": b"%d" % at})
    assert [(tmp_path / "found" / f"{name}.png").read_bytes() for name in names] == [
        b"%d" % at for at in range(len(ids))
    ]
    assert file_names(["a/x.jpg", "y.tar.png"]) == ["a/x", "y.tar"]


def test_any_classes_make_columns(tmp_path):
    words = ("cat", "Cat", "red cat", "red-cat", "#ff0000", "猫", "犬", "", "x" * 80, "x" * 81)
    names = schema.column_names("share", words)
    assert names[0] == "share_cat" and names[2] == "share_red_cat" and names[4] == "share__ff0000"
    assert len({name.lower() for name in names}) == len(words)
    known = {}
    for name in names:
        schema.check_column(name, known)
        known[name] = "number"
