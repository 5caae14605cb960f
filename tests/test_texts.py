"""Texts as they are read: from folders, lines and tables, and what of them cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_texts import TINY

import nearfar
from nearfar.core.errors import BadImage, NearfarError
from nearfar.data import modalities as kinds
from nearfar.data.open import open_data


def read(data: object, labels: bool = False) -> tuple[list[str], list[object], object]:
    """Each row's name, and its texts, or why it cannot be used."""
    kind = kinds.modality("text")
    source, found = kind.open(data, labels=labels), []
    for row in range(len(source)):
        try:
            found.append(kind.decode(kind.fetch(source, row, limit=0)[0], None, limit=0).value)
        except BadImage as error:
            found.append(str(error))
    return list(source.ids), found, source.labels


def test_folders_lines_and_tables_give_the_same_texts(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    texts, folder = ["one cat", "two dogs", "drei Vögel"], tmp_path / "texts"
    for at, text in enumerate(texts):
        (folder / "abc"[at]).mkdir(parents=True)
        (folder / "abc"[at] / "t.txt").write_text(f"\n{text}\n", encoding="utf-8")
    (tmp_path / "lines.txt").write_text("\n\n".join(texts), encoding="utf-8")
    rows = [{"id": f"r{at}", "text": text, "label": "abc"[at]} for at, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    lines = ["id,body,label", *(f"r{at},{text},{'abc'[at]}" for at, text in enumerate(texts))]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    wanted = [(text,) for text in texts]
    assert read(str(folder), labels=True) == (["a/t.txt", "b/t.txt", "c/t.txt"], wanted, ("a", "b", "c"))
    assert read(tmp_path / "lines.txt") == (["lines.txt:1", "lines.txt:3", "lines.txt:5"], wanted, None)
    for name in ("rows.jsonl", "rows.parquet", "rows.csv:body"):
        assert read(f"{tmp_path}/{name}", labels=True) == (["r0", "r1", "r2"], wanted, ("a", "b", "c"))
    assert read(f"{tmp_path}/rows.csv:body,label")[1][0] == ("one cat", "a")


def test_hostile_texts_are_named_and_the_rest_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    bad = {
        "nul.txt": b"before\0after",
        "latin.txt": "Vögel".encode("latin-1"),
        "empty.txt": b"",
        "blank.txt": b" \n\t ",
        "long.txt": b"word " * 10_000_000,
    }
    for name, data in (bad | {"utf16.txt": "zwei Vögel".encode("utf-16"), "good.txt": b"a bird"}).items():
        (folder / name).write_bytes(data)
    (folder / "gone.txt").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.txt")
    ids, found, _ = read(folder)
    told = dict(zip(ids, found, strict=True))
    assert told["good.txt"] == ("a bird",) and told["utf16.txt"] == ("zwei Vögel",)
    for name, why in (
        ("nul.txt", "NUL bytes"),
        ("latin.txt", "not UTF-8: byte 1"),
        ("empty.txt", "empty"),
        ("blank.txt", "empty"),
        ("long.txt", "too long: 50,000,000 bytes"),
        ("gone.txt", "unreadable"),
        ("pipe.txt", "not a regular file"),
    ):
        assert why in told[name], name
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"\n".join(data for name, data in bad.items() if name != "empty.txt") + b"\na bird")
    assert read(lines)[1][-1] == ("a bird",) and sum(isinstance(one, str) for one in read(lines)[1]) == 3
    made = nearfar.pretrain(
        kinds.modality("text").open(folder), out=tmp_path / "run", **TINY | {"batch_size": 2, "max_bad": 0.9}
    )
    assert len((made.path / "rejected.csv").read_text().splitlines()) == 8


def test_bad_rows_of_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "a"}\nnot json\n[1]\n{"text": 7}\n{"text": null}\n{"other": "b"}\n{"text": "c"}\n'
        '{"text": "half \\ud800"}\n'
    )
    assert read(path)[1] == [
        ("a",),
        "no JSON",
        "no JSON object",
        "no text but int",
        "empty",
        "no text",
        ("c",),
        "not UTF-8: byte 5 fits no letter; save it as UTF-8",
    ]


def test_the_first_row_may_lack_what_others_have(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"label": "x"}\n{"text": "a", "label": "x"}\n{"id": 1, "text": "b", "label": "y"}\n')
    assert read(path)[1] == ["no text", ("a",), ("b",)]
    assert read(f"{path}:text")[1] == ["no text", ("a",), ("b",)]
    path.write_text('{"text": ""}\n{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    assert kinds.modality("text").open(path, labels=True).labels[1:] == ("x", "y")
    table = tmp_path / "rows.csv"
    table.write_text("id,label,text\nr1,x\nr2,y,a bird\n")
    assert read(table)[1] == ["a column is missing", ("a bird",)]


def test_a_column_of_labels_is_found_in_any_letters(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"Text": ["a", "b"], "Label": ["x", "y"]}), tmp_path / "rows.parquet")
    assert kinds.modality("text").open(tmp_path / "rows.parquet", labels=True).labels == ("x", "y")


def test_lines_are_read_in_any_unicode_and_however_they_end(tmp_path: Path) -> None:
    texts = ["zwei Vögel", "一只鸟", "a bird"]
    for code in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        for end in ("\n", "\r\n", "\r", "\n\r\n"):
            case = f"{code} {end!r}"
            (tmp_path / "lines.txt").write_bytes(end.join(texts).encode(code))
            rows = [json.dumps({"text": text, "label": "x"}, ensure_ascii=False) for text in texts]
            (tmp_path / "rows.jsonl").write_bytes(end.join(rows).encode(code))
            for name in ("lines.txt", "rows.jsonl"):
                assert read(tmp_path / name)[1] == [(text,) for text in texts], (case, name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one.txt").write_bytes("zwei Vögel".encode("utf-32"))
    assert read(tmp_path / "folder")[1] == [("zwei Vögel",)]
    (tmp_path / "mixed.txt").write_bytes(b"one\rstill one\ntwo")
    assert read(tmp_path / "mixed.txt")[1] == [("one\rstill one",), ("two",)]


def test_a_column_is_never_guessed_among_two_and_found_in_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for heading, wanted, labels in (
        ("text,text,label", "", False),
        ("text,Label,label,label", "", True),
        ("a,b,b", ":a,b", False),
        ("text,id,id", "", False),
    ):
        path.write_text(f"{heading}\n" + ",".join("xyzw"[: heading.count(",") + 1]) + "\n")
        with pytest.raises(NearfarError, match="has two columns named '(text|label|b|id)'; rename one"):
            read(f"{path}{wanted}", labels=labels)
    path.write_text("text,note,note\na bird,x,y\n")
    assert read(path)[1] == [("a bird",)]
    path.write_text("Question, PASSAGE\nwhat,a bird\n")
    assert read(f"{path}:question,passage")[1] == [("what", "a bird")]


def test_errors_say_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one,two\nx,y\n")
    for data, what in (
        (tmp_path, "no text in"),
        (tmp_path / "a.csv", "name the one of the texts: .*a.csv:COLUMN"),
        (f"{tmp_path}/a.csv:three", "no column 'three'"),
        (tmp_path / "b.txt", "there is no"),
        (7, "taken from a int"),
    ):
        with pytest.raises(NearfarError, match=what):
            read(data)
    with pytest.raises(NearfarError, match="the column label, class or target|column of labels"):
        read(f"{tmp_path}/a.csv:one", labels=True)


def test_rows_that_are_set_aside_need_no_label_and_ids_are_found_in_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("ID,Text,Label\na1,a ship,sea\na2,  ,\nb1,a cow,\na3,only text\nc1,a tram,town\n")
    with pytest.raises(NearfarError, match="no label for text b1; give"):
        read(path, labels=True)
    path.write_text(path.read_text().replace("b1,a cow,", "b1,a cow,0"))
    source = kinds.modality("text").open(path, labels=True)
    assert list(source.ids) == ["a1", "a2", "b1", "a3", "c1"]
    assert [source.labels[at] for at in (0, 2, 4)] == ["sea", "0", "town"]
    rows = ['{"text": "a ship", "label": "sea"}', '{"text": null}', '{"text": "a cow", "label": 0}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    source = kinds.modality("text").open(tmp_path / "rows.jsonl", labels=True)
    assert source.labels[0] == "sea" and source.labels[2] == "0"
    with pytest.raises(NearfarError, match="2 texts but 1 label; pass one label per text"):
        read((["a", "b"], ["x"]), labels=True)


@pytest.mark.parametrize("kind", ["text", "sound", "pairs"])
def test_addresses_are_for_images_alone(kind: str) -> None:
    with pytest.raises(NearfarError, match="s3://bucket/a.jsonl is an address, from which images alone"):
        open_data("s3://bucket/a.jsonl", expected=kind)


def test_no_text_is_taken_for_the_name_of_a_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for lines in ("the ship is here\nthe cow is there\n", "id|text\n1|a ship\n2|a cow\n"):
        path.write_text(lines)
        with pytest.raises(NearfarError, match="which names no column"):
            read(path)
    path.write_text("comment\na ship\n")
    assert read(path)[1] == [("a ship",)]
    for name in ("rows.csv", "lines.txt"):  # texts that are taken for a list of images
        (tmp_path / name).write_text("id,text\n1,a ship\n2,cow\n" if ".csv" in name else "a ship\ncow\n")
        with pytest.raises(NearfarError, match="add --modality text"):
            open_data(tmp_path / name)
