"""Files in and out of a store: round trips, files of others, refusals, full disks."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import server  # noqa: F401
from small_store import draw, table

import nearfar
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.features.files import write_vectors
from nearfar.stores import StoreInfo, import_export, open_store
from nearfar.stores.import_export import export

INFO = StoreInfo(8, "abc", "runs/a", {"size": 32}, 64)
NAMES = itertools.count()


@pytest.fixture(params=["lance", "postgres"])
def filled(request, tmp_path):
    """A store with every kind of column, and values that files like to spoil."""
    address = str(tmp_path / "photos.nf")
    if request.param == "postgres":
        address = f"{request.getfixturevalue('server')}&table=e{next(NAMES)}"
    store = open_store(address, INFO)
    ids = ['it\'s, "so"', "line\nbreak", "é/日本.jpg", "plain", " spaces "]
    store.upsert(
        table(
            ids,
            label=["1", "007", None, "true", "x,y"],
            bytes=[1 << 40, None, 3, 4, 5],
            thumbnail=[b"\0\xff", None, b"jpeg", b"", b"x"],
            code=["1", "2", None, "4", "5"],
            score=[1 / 3, -0.0, None, 1e300, 5.0],
            sure=[True, None, False, True, False],
        )
    )
    return store


@pytest.mark.parametrize("suffix", ["parquet", "npz", "csv"])
def test_a_round_trip_loses_nothing(filled, tmp_path, suffix):
    file = tmp_path / f"out.{suffix}"
    assert export(filled, file) == 5
    again = tmp_path / "again.nf"
    summary = nearfar.store(again, import_file=file)
    assert summary.images == 5 and summary.encoder == "abc" and summary.run == "runs/a"
    found = open_store(again)
    assert found.info == INFO and found.columns == filled.columns
    assert found.rows().equals(filled.rows())
    assert np.array_equal(found.vectors()[1], filled.vectors()[1])
    thumbnails = filled.thumbnails(filled.ids()) if suffix == "parquet" else [b""] * 5
    assert found.thumbnails(found.ids()) == thumbnails
    second = tmp_path / f"second.{suffix}"
    export(found, second)
    if suffix != "parquet":
        assert second.read_bytes() == file.read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_files_are_what_others_read(filled, tmp_path):
    export(filled, tmp_path / "v.parquet")
    read = pq.read_table(tmp_path / "v.parquet")
    assert str(read.schema.field("vector").type).startswith("fixed_size_list<") and read.num_rows == 5
    assert json.loads(read.schema.metadata[b"nearfar"])["encoder"] == "abc"
    export(filled, tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as file:
        assert file["ids"].tolist() == filled.ids() and np.array_equal(file["vectors"], filled.vectors()[1])
    export(filled, tmp_path / "v.csv")
    assert json.loads((tmp_path / "v.json").read_text())["columns"]["code"] == "text"


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_what_embed_writes_is_imported(tmp_path, suffix):
    facts = {"run": "runs/a", "encoder": "abc", "preprocess": {"size": 32}, "data": "photos"}
    write_vectors(tmp_path / f"v.{suffix}", ["b", "a"], draw(2), ["x", "y"], facts)
    assert nearfar.store(tmp_path / "s.nf", import_file=tmp_path / f"v.{suffix}").encoder == "abc"
    store = open_store(tmp_path / "s.nf")
    assert store.ids() == ["a", "b"] and store.rows(["label"])["label"].to_pylist() == ["y", "x"]
    assert np.array_equal(store.vectors(ids=["b", "a"])[1], draw(2))


def test_vectors_of_unknown_or_other_origin_never_mix(filled, tmp_path):
    (tmp_path / "v.csv").write_text("id,v0,v1,v2,v3,v4,v5,v6,v7,site\na,1,2,3,4,5,6,7,8,A\n")
    foreign = nearfar.store(tmp_path / "foreign.nf", import_file=tmp_path / "v.csv")
    assert (foreign.images, foreign.dim, foreign.encoder) == (1, 8, "") and foreign.columns["site"] == "text"
    store = open_store(tmp_path / "s.nf", INFO)
    with pytest.raises(NearfarError, match="another encoder"):
        nearfar.store(tmp_path / "s.nf", import_file=tmp_path / "v.csv")
    assert len(store) == 0


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("v.txt", b"x", r"does not end in \.parquet"),
        ("v.parquet", b"PAR1 nonsense", "cannot be imported"),
        ("v.npz", b"PK nonsense", "cannot be imported"),
        ("v.csv", b"id,a\nx,1\n", "needs a heading with id and v0"),
        ("v.csv", b"id,v0,v1\nx,1\n", "line 2: 2 cells, and the heading has 3"),
        ("v.csv", b"id,v0,v1\nx,1,nan\n", "not finite"),
        ("v.csv", b"id,v0,v1\nx,1,2\nx,1,2\n", "occurs twice"),
        ("missing.csv", None, "cannot be imported|needs a heading"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, data, says):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(NearfarError, match=says):
        nearfar.store(tmp_path / "s.nf", import_file=tmp_path / name)


def test_another_program_s_table_is_refused(tmp_path):
    import lancedb

    lancedb.connect(str(tmp_path / "x.nf")).create_table("images", pa.table({"id": ["a"]}))
    with pytest.raises(NearfarError, match="another program's"):
        open_store(tmp_path / "x.nf")
    (tmp_path / "y.nf" / "images.lance").mkdir(parents=True)  # as a kill while it was made might leave it
    assert len(open_store(tmp_path / "y.nf", INFO)) == 0


def spoilt(kind: str, count: int) -> pa.Table:
    """Rows of which one, past the first chunk where there are so many, is refused."""
    ids = [str(at) for at in range(count)]
    vectors = draw(count)
    if kind == "nan":
        vectors[-1, 0] = np.nan
    if kind == "twice":
        ids[-1] = ids[0]
    if kind == "no id":
        ids[-1] = ""
    if kind == "narrow":
        return table(ids, draw(count, 5))
    if kind == "column":
        return table(ids, vectors, **{"no name!": ["x"] * count})
    return table(ids, vectors)


REFUSED = {
    "nan": "not finite",
    "twice": "the id '0' occurs twice",
    "no id": "a row has no id",
    "narrow": "holds vectors of 8 numbers, these have 5",
    "column": "a column cannot be named 'no name!'",
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("count", [3, 5000])
def test_a_refused_import_leaves_the_store_as_it_was(tmp_path, kind, count):
    pq.write_table(spoilt(kind, count), tmp_path / "bad.parquet")
    pq.write_table(spoilt("sound", 3), tmp_path / "good.parquet")
    if kind != "narrow":  # sound by itself: the store is what it does not fit
        with pytest.raises(NearfarError, match=REFUSED[kind]):
            nearfar.store(tmp_path / "new.nf", import_file=tmp_path / "bad.parquet")
        assert not (tmp_path / "new.nf").exists()
        assert nearfar.store(tmp_path / "new.nf", import_file=tmp_path / "good.parquet").images == 3
    old = tmp_path / "old.nf"
    before = nearfar.store(old, import_file=tmp_path / "good.parquet")
    with pytest.raises(NearfarError, match=REFUSED[kind]):
        nearfar.store(old, import_file=tmp_path / "bad.parquet")
    after = nearfar.store(old)
    assert (after.images, after.version, after.columns) == (3, before.version, before.columns)


def test_times_are_texts_nan_is_no_value_and_what_is_left_out_is_named(tmp_path, capfd):
    days = [datetime.date(2020, 1, 2), None]
    noon = pa.array([datetime.datetime(2020, 1, 1, 12), None], pa.timestamp("us"))
    plain = table(["a", "b"], day=days, noon=noon, price=[decimal.Decimal("1.50"), None], lists=[[1], [2]])
    plain = plain.append_column("far", [[float("nan"), float("inf")]]).append_column("raw", [[b"x", b"y"]])
    pq.write_table(plain, tmp_path / "in.parquet")
    progress.show(True)
    store = nearfar.store(tmp_path / "s.nf", import_file=tmp_path / "in.parquet")
    assert "without the columns lists, raw, of neither texts" in capfd.readouterr().err
    assert "lists" not in store.columns and store.columns["day"] == "text"
    for suffix in ("parquet", "npz", "csv"):
        export(open_store(str(tmp_path / "s.nf")), tmp_path / f"out.{suffix}")
        nearfar.store(tmp_path / f"{suffix}.nf", import_file=tmp_path / f"out.{suffix}")
        rows = open_store(str(tmp_path / f"{suffix}.nf")).rows(["day", "noon", "price", "far"]).to_pylist()
        assert rows == [
            {"day": "2020-01-02", "noon": "2020-01-01 12:00:00", "price": "1.50", "far": None},
            {"day": None, "noon": None, "price": None, "far": float("inf")},
        ]


def test_columns_called_like_numbers_of_vectors_come_back(tmp_path):
    store = open_store(str(tmp_path / "s.nf"), INFO)
    store.upsert(table(["a"], v0=[9.0], v8=[7.0]))
    export(store, tmp_path / "out.csv")
    nearfar.store(tmp_path / "again.nf", import_file=tmp_path / "out.csv")
    again = open_store(str(tmp_path / "again.nf"))
    assert np.array_equal(again.vectors()[1], store.vectors()[1])
    assert again.rows(["v0", "v8"]).to_pylist() == [{"v0": 9.0, "v8": 7.0}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,v0,v1\na,1\n", "line 2: 2 cells, and the heading has 3"),
        ("id,v0,v1\na,1,2,3\n", "line 2: 4 cells, and the heading has 3"),
        ("id,v0,v1\n\na,x,2\n", "line 3: v0, v1, ... are no numbers"),
        ('id,v0,label\na,1,"x\nb,2,y\n', "line 2: a quote"),
        ("id,id,v0\na,b,1\n", "two columns named 'id'"),
        ("id,v1,v2\na,1,2\n", "needs a heading with id and v0"),
    ],
)
def test_csv_files_that_lose_rows_or_cells_are_refused_by_line(tmp_path, text, said):
    (tmp_path / "in.csv").write_text(text)
    with pytest.raises(NearfarError, match=said.replace(".", r"\.")):
        nearfar.store(tmp_path / "s.nf", import_file=tmp_path / "in.csv")
    assert not (tmp_path / "s.nf").exists()


def test_csv_files_of_other_programs_are_read(tmp_path):
    (tmp_path / "in.csv").write_bytes('id;v0;v1;site\r\na;1;2;"ä;b"\r\n\r\nb;3;4;\r\n'.encode("utf-16"))
    nearfar.store(tmp_path / "s.nf", import_file=tmp_path / "in.csv")
    store = open_store(str(tmp_path / "s.nf"))
    assert store.rows(["id", "site"]).to_pylist() == [{"id": "a", "site": "ä;b"}, {"id": "b", "site": None}]
    assert store.vectors()[1].tolist() == [[1, 2], [3, 4]]


def test_arrays_of_bytes_days_and_numbers_that_are_none(tmp_path):
    days = np.array(["2020-01-02", "NaT"], "M8[D]")
    held = {"ids": np.array([b"a", "ä".encode()]), "vectors": draw(2), "day": days, "wide": np.ones((2, 2))}
    np.savez(tmp_path / "in.npz", age=np.array([1.5, np.nan]), **held)
    nearfar.store(tmp_path / "s.nf", import_file=tmp_path / "in.npz")
    assert open_store(str(tmp_path / "s.nf")).rows(["id", "day", "age"]).to_pylist() == [
        {"id": "a", "day": "2020-01-02", "age": 1.5},
        {"id": "ä", "day": None, "age": None},
    ]
    np.savez(tmp_path / "bad.npz", ids=np.array(["a"], object), vectors=draw(1))
    with pytest.raises(NearfarError, match="Python objects, which is never loaded"):
        nearfar.store(tmp_path / "t.nf", import_file=tmp_path / "bad.npz")
    for name, vectors in (("empty", np.ones((1, 0))), ("complex", np.ones((1, 2), complex))):
        np.savez(tmp_path / f"{name}.npz", ids=np.array(["a"]), vectors=vectors)
        with pytest.raises(NearfarError, match=r"vectors, \(n, d\) numbers"):
            nearfar.store(tmp_path / "t.nf", import_file=tmp_path / f"{name}.npz")


@pytest.mark.parametrize("suffix", ["parquet", "npz", "csv"])
def test_columns_called_like_parts_of_a_file_and_texts_that_are_nan_come_back(tmp_path, suffix):
    store = open_store(str(tmp_path / "s.nf"), INFO)
    store.upsert(table(["nan", "b"], label=["nan", "x"], site=["nan", None], provenance=["p", "q"]))
    for name in ("ids", "labels"):
        store.update(name, {"nan": "r", "b": "nan"})
    store.update("vectors", {"b": 2.0})
    export(store, tmp_path / f"out.{suffix}")
    nearfar.store(tmp_path / "again.nf", import_file=tmp_path / f"out.{suffix}")
    again = open_store(str(tmp_path / "again.nf"))
    assert again.rows().to_pylist() == store.rows().to_pylist()
    assert (again.vectors()[1] == store.vectors()[1]).all()


def test_one_long_text_among_many_is_told_to_go_to_parquet(tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "s.nf"), INFO)
    store.upsert(table([f"{number:03}" for number in range(500)], note=["x" * 100_000, *["y"] * 499]))
    monkeypatch.setattr(import_export, "available", lambda: 10**8)
    with pytest.raises(
        NearfarError, match="column note takes 0.2 GB .* 100,000 characters; export to a .parquet"
    ):
        export(store, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_a_file_whose_own_words_make_no_store_makes_none(tmp_path):
    said = {"nearfar": json.dumps({"thumbnail": 0})}
    pq.write_table(table(["a"]).replace_schema_metadata(said), tmp_path / "in.parquet")
    with pytest.raises(NearfarError, match=r"in.parquet: thumbnail is 0, not a whole number"):
        nearfar.store(tmp_path / "s.nf", import_file=tmp_path / "in.parquet")
    assert not (tmp_path / "s.nf").exists()


def test_nan_among_numbers_is_none_of_them(tmp_path):
    (tmp_path / "in.csv").write_text("id,v0,age,word\na,1,1.5,nan\nb,2,NaN,x\n")
    nearfar.store(tmp_path / "s.nf", import_file=tmp_path / "in.csv")
    found = open_store(str(tmp_path / "s.nf")).rows(["age", "word"]).to_pylist()
    assert found == [{"age": 1.5, "word": "nan"}, {"age": None, "word": "x"}]
    np.savez(tmp_path / "in.npz", ids=np.array(["a"]), id=np.array(["b"]), vectors=draw(1))
    with pytest.raises(NearfarError, match="has the arrays id and ids; keep one"):
        nearfar.store(tmp_path / "t.nf", import_file=tmp_path / "in.npz")


def test_a_file_of_others_is_not_replaced_by_what_says_whose_vectors_they_are(tmp_path):
    store = open_store(str(tmp_path / "s.nf"), INFO)
    store.upsert(table(["a"]))
    (tmp_path / "out.json").write_text('{"mine": 1}')
    with pytest.raises(NearfarError, match="out.json would say whose vectors these are, and is another file"):
        export(store, tmp_path / "out.csv")
    assert (tmp_path / "out.json").read_text() == '{"mine": 1}' and not (tmp_path / "out.csv").exists()
    for _ in range(2):
        export(store, tmp_path / "other.csv")
    export(store, tmp_path / "new/deep/out.parquet")


@pytest.mark.parametrize("limit", [None, 600], ids=["room for a note", "no room at all"])
def test_a_write_whose_error_is_lost_is_taken_back(tmp_path, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = open_store(str(tmp_path / "s.nf"), INFO)
    store.upsert(table(["a"]))
    pieces = tmp_path / "s.nf" / "images.lance" / "data"
    there = set(pieces.iterdir())

    def cut_short():
        store._table.add(store._filled(table(["b"], draw(1, seed=1))))
        (made,) = set(pieces.iterdir()) - there
        made.write_bytes(made.read_bytes()[:500])  # as LanceDB leaves it, one write in some hundreds
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    try:
        with pytest.raises(NearfarError, match=r"the disk of .*s.nf is too full; what was written before is"):
            store._commit(cut_short)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_store(str(tmp_path / "s.nf")).ids() == ["a"] == store.ids()
    store.upsert(table(["b"], draw(1, seed=1)))
    assert open_store(str(tmp_path / "s.nf")).ids() == ["a", "b"]


def test_a_store_on_a_full_disk_says_so_and_goes_on(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = open_store(str(tmp_path / "s.nf"), INFO)
    store.upsert(table(["a"]))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(NearfarError, match=r"the disk of .*s.nf is too full; .* the same command again"):
            store.upsert(table(["b"], draw(1, seed=1)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
        with pytest.raises(NearfarError, match=r"the disk of .*t.nf is too full"):
            open_store(str(tmp_path / "t.nf"), INFO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_store(str(tmp_path / "s.nf")).ids() == ["a"]
    store.upsert(table(["b"], draw(1, seed=1)))
    assert open_store(str(tmp_path / "t.nf"), INFO).ids() == [] and store.ids() == ["a", "b"]
