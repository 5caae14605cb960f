"""Images kept as bytes in columns of Parquet files and Lance data sets: any row, in any order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from interrupted import pretrain_until
from small_sources import png, red, refuses
from small_store import INFO
from small_store import table as rows

import nearfar
from nearfar.data.parquet import GROUPS
from nearfar.data.source import stamps
from nearfar.data.sources import open_source
from nearfar.data.texts import open_texts
from nearfar.finetuning.many_labels import read_many
from nearfar.stores import open_store
from nearfar.stores.import_export import export as export_file
from nearfar.stores.import_export import import_file
from nearfar.training.run import load

NAMES = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}


def cells(values: range) -> pa.Table:
    """Images as Hugging Face's libraries write them, with classes as numbers."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(value), "path": f"{value}.png"} for value in values], kind)
    table = pa.table({"image": images, "label": [value % 2 for value in values]})
    return table.replace_schema_metadata({"huggingface": json.dumps(NAMES)})


def shards(folder: Path, count: int = 3, rows: int = 14) -> None:
    """Write Parquet files of `rows` images in groups of four."""
    folder.mkdir()
    for shard in range(count):
        values = range(rows * shard, rows * (shard + 1))
        parquet.write_table(cells(values), folder / f"x-{shard:03d}.parquet", row_group_size=4)


def test_parquet(tmp_path: Path) -> None:
    shards(tmp_path / "in")
    for pattern in ("*.parquet", "x-{000..002}.parquet"):
        source = open_source(str(tmp_path / "in" / pattern), labels=True)
        assert len(source) == 42 and source.ids[15] == "x-001.parquet/1"
        assert source.labels[:3] == ("cat", "dog", "cat")
        order = np.random.default_rng(0).permutation(42).tolist()
        assert [red(source, row) for row in order] == order
        assert len(source._groups._held) <= GROUPS, "only some groups of rows stay in memory"
    assert red(open_source(tmp_path / "in" / "x-002.parquet"), 3) == 31
    marks = [mark for _, some in stamps(source) for mark in some]
    assert len({*marks}) == 42
    refuses(tmp_path / "in", "for its shards type")
    refuses(str(tmp_path / "in" / "y*.parquet"), "no file matches")
    (tmp_path / "in" / "cut.parquet").write_bytes((tmp_path / "in" / "x-000.parquet").read_bytes()[:400])
    refuses(str(tmp_path / "in" / "*.parquet"), "cut.parquet cannot be read as Parquet")


def test_which_columns_are_images_and_which_are_paths(tmp_path: Path) -> None:
    raw = pa.array([png(1), b"", None], pa.binary())
    parquet.write_table(
        pa.table({"jpg": raw, "thumbnail": raw, "path": ["a", "b", "c"]}), tmp_path / "a.parquet"
    )
    source = open_source(tmp_path / "a.parquet")
    assert red(source, 0) == 1
    for row in (1, 2):
        with pytest.raises(nearfar.core.errors.BadImage, match="empty cell"):
            source.read(row)
    refuses(tmp_path / "a.parquet", "has no column 'label'", labels=True)
    (tmp_path / "a.png").write_bytes(png(1))
    parquet.write_table(pa.table({"path": ["a.png"], "thumbnail": raw[:1]}), tmp_path / "list.parquet")
    assert open_source(tmp_path / "list.parquet").kind == "files"
    parquet.write_table(pa.table({"a": raw, "b": raw}), tmp_path / "two.parquet")
    refuses(tmp_path / "two.parquet", "several columns of bytes (a, b); name one 'image'")


@pytest.mark.parametrize("blob", [False, True])
def test_lance(tmp_path: Path, blob: bool) -> None:
    lancedb = pytest.importorskip("lancedb")
    database = lancedb.connect(str(tmp_path))
    field = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"} if blob else None)
    schema = pa.schema([pa.field("id", pa.string()), field, pa.field("label", pa.string())])

    def rows(values: range) -> pa.Table:
        names = [f"n{value}" for value in values]
        columns = {"id": names, "image": [png(value) for value in values], "label": [n[-1] for n in names]}
        return pa.table(columns, schema=schema)

    table = database.create_table("set", rows(range(30)), schema=schema)
    table.add(rows(range(30, 40)))
    table.delete("id = 'n5'")
    source = open_source(tmp_path / "set.lance", labels=True)
    values = [*range(5), *range(6, 40)]
    assert list(source.ids) == [f"n{value}" for value in values] and source.labels[5] == "6"
    order = np.random.default_rng(0).permutation(39).tolist()
    assert [red(source, row) for row in order] == [values[row] for row in order]
    before = source.stamp(0)
    table.delete("id = 'n0'")
    assert red(source, 0) == 0, "an open data set stays at its version"
    again = open_source(tmp_path / "set.lance")
    assert red(again, 0) == 1 and again.stamp(0) != before


def test_what_is_no_such_table(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    (tmp_path / "a.lance").mkdir()
    refuses(tmp_path / "a.lance", "cannot be opened as a Lance data set")
    lancedb.connect(str(tmp_path)).create_table("words", pa.table({"text": ["a"], "n": [1]}))
    refuses(tmp_path / "words.lance", "has no column of encoded images; it has text, n")


def test_training_streams_rows_and_resumes_exactly(tmp_path: Path) -> None:
    shards(tmp_path / "in")
    how = {
        "steps": 3,
        "batch_size": 8,
        "image_size": 16,
        "encoder": "resnet10_w16",
        "holdout": 0.0,
        "cache": False,
        "device": "cpu",
    }
    data = str(tmp_path / "in" / "*.parquet")
    nearfar.pretrain(data, out=tmp_path / "whole", **how)
    pretrain_until(3, data, out=tmp_path / "cut", **how)
    nearfar.pretrain(data, out=tmp_path / "cut", **how)
    a, b = ((tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "cut"))
    assert a == b and load(tmp_path / "cut").encoder.dim


def test_a_folder_with_a_colon_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run:1").mkdir()
    (tmp_path / "run:1" / "a.png").write_bytes(png(7))
    table = pa.table({"path": ["a.png"], "label": ["x"], "text": ["some words"], "site": ["A"]})
    parquet.write_table(table, tmp_path / "run:1" / "list.parquet")
    parquet.write_table(cells(range(3)), tmp_path / "run:1" / "images.parquet")
    source = open_source("run:1/list.parquet", labels=True)
    assert source.labels == ("x",) and len(open_source("run:1/images.parquet")) == 3
    assert read_many(Path("run:1/list.parquet"))["a.png"] == ("x",)
    assert len(open_texts("run:1/list.parquet:text")) == 1
    store = open_store("run:1/s.nf", INFO)
    store.upsert(rows(["a.png"]))
    export_file(store, "run:1/rows.parquet")
    assert open_store("run:1/s.nf").ids() == ["a.png"]
    assert import_file("run:1/other.nf", "run:1/rows.parquet")
