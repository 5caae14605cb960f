"""Lists of labels that contradict themselves or are cut short are refused by line; odd ones are read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from small_sources import png, refuses

from nearfar.core.errors import NearfarError
from nearfar.data import labels
from nearfar.data.csv_files import read_rows
from nearfar.data.groups import read_groups
from nearfar.data.source import places_of, real_places
from nearfar.data.sources import open_source
from nearfar.data.texts import open_texts
from nearfar.finetuning.many_labels import open_many, read_many


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(png(3))
    return tmp_path


def listed(place: Path, text: str, name: str = "l.csv", encoding: str = "utf-8") -> Path:
    (place / name).write_bytes(text.encode(encoding))
    return place / name


@pytest.mark.parametrize("again", ["a.png", "./a.png", "x/../a.png"])
def test_two_labels_of_an_image_are_refused(place: Path, again: str) -> None:
    refuses(
        listed(place, f"path,label\na.png,cat\n{again},dog\n"), "two labels, 'cat' and 'dog'", labels=True
    )
    same = listed(place, f"path,label\na.png,cat\n{again}, cat \n")
    assert open_source(same, labels=True).labels == ("cat", "cat")
    several = listed(place, f"path,labels\na.png,cat;dog\n{again},cat\n")
    with pytest.raises(NearfarError, match=r"line 3: .*a.png has two rows whose labels differ"):
        open_many(several, "images", None)


def test_rows_of_one_label_each_are_the_labels_of_one_image(place: Path) -> None:
    text = "path,label\na.png,cat\nb.png,dog\n./a.png,dog\na.png,cat\nc.png,\n"
    source, labels = open_many(listed(place, text), "images", None)
    assert dict(zip(source.ids, labels, strict=True)) == {
        "a.png": ("cat", "dog"),
        "b.png": ("dog",),
        "c.png": (),
    }
    assert [Path(str(source.read(row))).name for row in range(3)] == ["a.png", "b.png", "c.png"]
    rows = pa.table({"path": ["a.png", "a.png", "b.png"], "label": ["x", "y", "y"]})
    pa.parquet.write_table(rows, place / "l.parquet")
    assert open_many(place / "l.parquet", "images", None)[1] == [("x", "y"), ("y",)]


@pytest.mark.parametrize("rows", ["a.png,\na.png,cat", "a.png,cat\na.png,", "a.png,cat\na.png,dog;cow"])
def test_rows_that_may_hold_all_labels_of_an_image_are_not_put_together(place: Path, rows: str) -> None:
    with pytest.raises(NearfarError, match=r"line 3: a.png has two rows .* one label into each"):
        read_many(listed(place, f"path,label\n{rows}\n"))


def test_a_comma_without_quotes_is_not_cut_off(place: Path) -> None:
    ragged = listed(place, "path,label\na.png,cat, black\nb.png,dog\n")
    refuses(ragged, "line 2: 3 cells, and the heading has 2", "double quotes", labels=True)
    blank = listed(place, "path,label\na.png,cat,,\nb.png,dog\n")  # as spreadsheets end lines
    assert open_source(blank, labels=True).labels == ("cat", "dog")
    with pytest.raises(NearfarError, match="line 2: 3 cells"):
        read_groups(listed(place, "path,group\na.png,cat, black\n"))
    with pytest.raises(NearfarError, match="line 2: 3 cells"):
        read_many(listed(place, "path,labels\na.png,cat, black\n"))
    texts = open_texts(listed(place, "text,label\nI like it, really,pos\nIt is bad.,neg\n"), labels=False)
    assert list(texts.bad) == [0] and "needs quotes" in texts.bad[0]


@pytest.mark.parametrize("end", ['c.png,z\n"d.png,z\n', 'c.png,"z\nd.png,y\n', 'c.png,"z\nd.png,y"'])
def test_a_quote_that_is_never_closed_swallows_no_rows(place: Path, end: str) -> None:
    broken = listed(place, f"path,label\na.png,x\n{end}")
    if end.endswith('"'):  # it is closed, two lines below: one cell
        assert [row for _, row in read_rows(broken)][-1] == ["c.png", "z\nd.png,y"]
        return
    line = 4 if end.startswith("c.png,z\n") else 3
    refuses(broken, f"l.csv, line {line}: a quote", "is not closed", labels=True)
    refuses(broken, f"line {line}: a quote")
    with pytest.raises(NearfarError, match=f"line {line}: a quote"):
        list(read_rows(broken, lenient=True))


def test_a_quote_within_a_quoted_cell_is_named_by_its_line(place: Path) -> None:
    broken = listed(place, 'path,label\na.png,x\nb.png,"a "big" cat"\n')
    refuses(broken, "line 3: a quote", "twice", labels=True)
    assert [row for _, row in read_rows(broken, lenient=True)][-1][0] == "b.png"
    assert open_source(listed(place, 'path,label\na.png,5" disk\n'), labels=True).labels == ('5" disk',)


def test_a_cell_longer_than_python_reads_is_named_by_its_line(place: Path) -> None:
    text = f"path,label\na.png,x\nb.png,{'y' * 200_000}\n"
    limit = csv.field_size_limit(131_072)
    try:
        refuses(listed(place, text), "line 3", "131,072", labels=True)
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("between", ",;\t")
def test_lists_of_every_unicode_and_separator(place: Path, encoding: str, between: str) -> None:
    text = f"path{between}label\r\na.png{between}ä\r\nb.png{between}\N{CAT FACE}\r\n"
    found = open_source(listed(place, text, encoding=encoding), labels=True)
    assert found.labels == ("ä", "\N{CAT FACE}") and list(found.ids) == ["a.png", "b.png"]


def test_a_zero_byte_in_a_cell_spoils_that_row_alone(place: Path) -> None:
    rows = listed(place, "path,label,group\na.png,x,g\nb\0.png,y,h\nsub\0/c.png,y,h\n")
    source = open_source(rows, labels=True)
    assert source.labels == ("x", "y", "y") and len(places_of(source)) == 3
    assert list(real_places(["sub\0/c.png"])) == ["sub\0/c.png"]
    assert labels.from_list(open_source(rows), rows).labels == ("x", "y", "y")
    assert read_groups(rows).numbers([(source, list(source.ids))])[0].tolist() == [0, 1, 1]
    texts = open_texts(listed(place, "id,text\n1,a ship\n2,a\0cow\n3,a tram\n", "t.csv"))
    assert texts.ids == ["1", "2", "3"] and "NUL" in texts.bad[1]


def test_nested_labels_are_refused_and_bytes_are_words(place: Path) -> None:
    def parquet(labels: list[object]) -> Path:
        pa.parquet.write_table(pa.table({"path": ["a.png", "b.png"], "label": labels}), place / "l.parquet")
        return place / "l.parquet"

    refuses(parquet([[1, 2], [1]]), "[1, 2] for the label of image a.png", "--multi-label", labels=True)
    refuses(parquet([{"k": 1}, {"k": 2}]), "for the label of image a.png", labels=True)
    assert open_source(parquet([b"cat", "dög".encode()]), labels=True).labels == ("cat", "dög")
    assert open_source((np.zeros((1, 4, 4, 3), np.uint8), np.array([b"cat"])), labels=True).labels == ("cat",)
