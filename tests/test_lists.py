"""Lists of images: paths and labels in every form, and what is wrong with one is a sentence."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from small_sources import folder, png, red, refuses  # noqa: F401

from nearfar.core.errors import BadImage, NearfarError
from nearfar.data.labels import from_list
from nearfar.data.sources import open_source
from nearfar.images import decode


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "parquet"])
def test_lists(folder: Path, kind: str) -> None:
    paths, labels = ["dog/1.png", str(folder / "cat/1.png"), "missing.png"], ["hund", "katze", "?"]
    file = folder / f"list.{kind}"
    if kind == "txt":
        file.write_bytes(("\ufeff" + "\r\n".join(paths) + "\r\n\r\n").encode())
    elif kind == "parquet":
        pa.parquet.write_table(pa.table({"n": [1, 2, 3], "Image": paths, "label": labels}), file)
    else:
        mark = "\t" if kind == "tsv" else ","
        rows = [("n", "File", "Label"), *zip("123", paths, labels, strict=True)]
        file.write_text("\n".join(mark.join(row) for row in rows))
    source = open_source(file)
    assert list(source.ids) == paths and source.labels is None
    assert [red(source, 0), red(source, 1)] == [2, 0]
    with pytest.raises(BadImage, match="no such file"):
        decode.decode(source.read(2), max_pixels=100)
    if kind == "txt":
        refuses(file, "has no labels: use a .csv", labels=True)
    else:
        assert open_source(file, labels=True).labels == tuple(labels)


def test_broken_lists(tmp_path: Path) -> None:
    for name, text, words in [
        ("a.txt", "\n\n", "lists no image"),
        ("b.csv", "name,label\nx.png,1\n", "no column of paths"),
        ("c.csv", "path\nx.png\n", "no column of labels"),
        ("d.csv", "path,label\nx.png\n", "line 2: a column is missing"),
        ("e.csv", "path,label\nx.png,\n", "no label for image x.png; give it one"),
        ("i.csv", "path,label\nx.png,\ny.png,a\nz.png,\n", "for 2 of its 3 images, such as image x.png"),
        ("l.csv", "x.png,a\ny.png,b\n", "no heading: its first line names x.png; write a line such as path"),
        ("f.parquet", "PAR1 nothing", "cannot be read"),
        ("g.csv", "", "no column of paths"),
        ("j.csv", "path,label\n../1.png,a\n", "none of the files"),
        ("k.csv", "path,label\n../1.png,a\n\n ,b\n", "line 4: the path is missing"),
    ]:
        (tmp_path / name).write_text(text)
        refuses(tmp_path / name, words, labels=name not in ("a.txt", "b.csv"))
    pa.parquet.write_table(pa.table({"path": ["a.png", None]}), tmp_path / "h.parquet")
    refuses(tmp_path / "h.parquet", "lacks a path")


def test_blanks_around_paths_and_labels_make_no_classes(folder: Path) -> None:
    (folder / "l.csv").write_text("path, label\ncat/1.png , cat\n dog/1.png,cat \n  ,  \n")
    source = open_source(folder / "l.csv", labels=True)
    assert source.labels == ("cat", "cat") and [red(source, 0), red(source, 1)] == [0, 2]
    assert open_source((np.zeros((2, 8, 8), np.uint8), [" a", "a "]), labels=True).labels == ("a", "a")


@pytest.mark.parametrize("word", ["-1", "null", "NaN", "#N/A", "<NA>", " ", "", -1, -1.0, None, float("nan")])
def test_what_means_no_label_is_refused_as_a_class(word: object, folder: Path) -> None:
    refuses((np.zeros((2, 8, 8), np.uint8), [3, word]), "no label for image 2", labels=True)
    if isinstance(word, str):
        (folder / "l.csv").write_text(f"path,label\ncat/1.png,1\ndog/1.png,{word}\n")
        refuses(folder / "l.csv", "no label for image dog/1.png", labels=True)


def test_lists_that_give_two_answers_are_refused(folder: Path) -> None:
    (folder / "l.csv").write_text("path,label,Label\ncat/1.png,1,2\n")
    refuses(folder / "l.csv", "two columns named 'label'", labels=True)
    source = open_source(folder)
    (folder / "l.csv").write_text("".join(["path,label\n", *(f"{name},1\n" for name in source.ids)]))
    with open(folder / "l.csv", "a") as file:
        file.write("./cat/1.png,1\n")
    assert set(from_list(source, folder / "l.csv").labels or ()) == {"1"}
    with open(folder / "l.csv", "a") as file:
        file.write("./cat/1.png,2\n")
    with pytest.raises(NearfarError, match="cat/1.png two labels, '1' and '2'"):
        from_list(source, folder / "l.csv")


def test_labels_of_many_digits_stay_apart(folder: Path) -> None:
    long = [20240117093012000007, 20240117093012000008]
    assert open_source((np.zeros((2, 8, 8), np.uint8), long), labels=True).labels == tuple(map(str, long))
    table = pa.table({"path": ["cat/1.png", "dog/1.png"], "label": pa.array([2**60 + 1, 2**60])})
    pa.parquet.write_table(table, folder / "l.parquet")
    assert open_source(folder / "l.parquet", labels=True).labels == (str(2**60 + 1), str(2**60))


def test_a_million_paths_open_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_text("\n".join(f"a/{n:07d}.jpg" for n in range(1_000_000)))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0000000.jpg").touch()
    started = time.process_time()
    assert len(open_source(tmp_path / "big.txt")) == 1_000_000
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path;label\na\\b.png;x\n", "utf-16"),
        ("path;label\r\na\\b.png;x\r\n", "utf-8-sig"),
        ("sep=;\r\nPath;Label\r\n\r\na/b.png;x\r\n", "utf-8"),
        ("label\tpath\nx\ta/b.png\n", "utf-16-le"),
        ("path,label\na/b.png,'=x\n", "utf-8"),
        ("Path;Label\r\na\\b.png;x\r\na/Größe “é” 5 €.png;Größe\r\n", "cp1252"),
        ("path;label\na/Größe “é” 5 €.png;Größe\n", "cp1252"),
        ("path,label\n" + unicodedata.normalize("NFD", "a/Größe “é” 5 €.png,Größe\n"), "utf-8"),
    ],
)
def test_lists_that_excel_and_windows_wrote_are_read(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("b.png", "Größe “é” 5 €.png"):
        (tmp_path / "a" / name).write_bytes(png(3))
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    (tmp_path / "list.csv").write_bytes(mark + text.encode(encoding))
    source = open_source(tmp_path / "list.csv", labels=True)
    wanted = {"=x"} if "=" in text.split("\n")[1] else {"Größe", "x"}
    assert source.labels is not None and set(source.labels) <= wanted
    assert [red(source, row) for row in range(len(source))] == [3] * len(source)
    assert "\\x" not in "".join(source.ids)


def test_lists_that_cannot_be_read_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("path,label\na.png,x\n".encode("utf-16-le"))
    refuses(tmp_path / "list.csv", "save it as 'CSV UTF-8'")
    (tmp_path / "list.csv").write_text("path\nC:\\photos\\a.png\n")
    refuses(tmp_path / "list.csv", "which only Windows finds", "relative to the list's folder")
    (tmp_path / "b\\c.png").write_bytes(png(7))  # a name that Linux allows
    (tmp_path / "list.csv").write_text("path\nb\\c.png\n")
    assert red(open_source(tmp_path / "list.csv"), 0) == 7
    (tmp_path / "o\u0308.png").write_bytes(png(9))  # as macOS writes it
    (tmp_path / "list.txt").write_bytes("ö.png\n".encode("cp1252"))
    assert red(open_source(tmp_path / "list.txt"), 0) == 9
