"""One suite for every vector store, and for what each promises alone: rows, conditions, search, refusals."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from servers import server  # noqa: F401
from small_store import INFO, address, draw, filled, store, table  # noqa: F401

import nearfar
from nearfar.app import tasks
from nearfar.cli.main import main
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.stores import StoreInfo, base, lance_commits, lance_sql, open_store
from nearfar.stores.arrow_rows import fixed
from nearfar.stores.columns import read_columns, values_of


def test_what_goes_in_comes_out(store):
    ids = ["b", "a", "é"]
    given = table(
        ids,
        path=["/x/b", "/x/a", None],
        label=["y", None, "x"],
        digest=["1", "2", "3"],
        bytes=[1 << 40, 2, None],
        width=[3, 4, 5],
        height=[6, 7, 8],
        thumbnail=[b"\0jpeg", b"", None],
    )
    before = store.version
    store.upsert(given)
    assert store.version > before and len(store) == 3 and store.ids() == ["a", "b", "é"]
    found, vectors = store.vectors()
    assert found == ["a", "b", "é"] and vectors.dtype == np.float32
    assert np.array_equal(vectors, draw(3)[[1, 0, 2]])
    assert store.rows(ids=ids).equals(given.drop_columns(["vector", "thumbnail"]).cast(store.rows().schema))
    assert store.thumbnails(["é", "b", "a", "b"]) == [b"", b"\0jpeg", b"", b"\0jpeg"]
    assert store.rows(["width", "id"]).to_pydict() == {"width": [4, 3, 5], "id": ["a", "b", "é"]}
    assert list(store.columns) == ["id", "path", "label", "digest", "bytes", "width", "height"]


def test_a_store_is_the_same_when_opened_again(filled, address):
    again = open_store(address)
    assert again.info == INFO and again.ids() == filled.ids() and again.columns == filled.columns
    assert again.rows().equals(filled.rows())
    filled.update("label", {"00.png": "fox"})
    assert again.rows(["label"], ids=["00.png"])["label"].to_pylist() == ["fox"]
    assert again.version == filled.version


def test_every_float_comes_back_the_same(store):
    bits = np.random.default_rng(0).integers(0, 2**32, (500, 8), np.uint32).view(np.float32)
    bits[~(np.abs(bits) < 1e12)] = 0  # of longer vectors float32 loses the direction
    bits[0] = [-1e12, np.finfo(np.float32).tiny, 1e-45, -0.0, 1 / 3, -1, 0, 16777217]
    bits[1:, 0] = 1
    store.upsert(table([f"{k:03d}" for k in range(500)], bits))
    assert np.array_equal(store.vectors()[1].view(np.uint32), bits.view(np.uint32))


def test_rows_are_replaced_by_id_and_keep_what_is_not_given(filled):
    fresh = draw(2, seed=9)
    filled.upsert(table(["00.png", "new"], fresh, label=["fox", "owl"]))
    assert len(filled) == 13
    found = filled.rows(["id", "label", "site", "width"], ids=["00.png", "new"]).to_pylist()
    assert found == [
        {"id": "00.png", "label": "fox", "site": "A", "width": 0},
        {"id": "new", "label": "owl", "site": None, "width": None},
    ]
    assert np.array_equal(filled.vectors(ids=["new", "00.png"])[1], fresh[::-1])
    assert np.array_equal(filled.vectors(ids=["01.png"])[1], draw(12)[1:2])


def test_columns_are_set_and_added(filled):
    filled.update("label", {"00.png": None, "01.png": "it's", "gone": "x"})
    filled.update("mark", {"02.png": 2.5, "03.png": 1})
    filled.update("sure", {"02.png": True})
    filled.update("note", {})
    assert filled.columns["mark"] == "number" and filled.columns["sure"] == "flag"
    found = filled.rows(["label", "mark", "sure", "note"]).slice(0, 4).to_pydict()
    assert found["label"] == [None, "it's", None, "cat"]
    assert found["mark"] == [None, None, 2.5, 1.0] and found["sure"] == [None, None, True, None]
    assert len(filled) == 12 and "gone" not in filled.ids()


def test_columns_are_dropped_and_may_come_back_as_another_kind(filled, address):
    filled.set_notes("site", {"by": "me"})
    filled.drop(["site", "good", "site"])
    assert "site" not in filled.columns and "good" not in open_store(address).columns
    assert filled.rows(["score"]).to_pydict()["score"][:2] == [0.0, 0.5] and len(filled) == 12
    filled.update("site", {"00.png": 3})
    assert filled.columns["site"] == "number" and filled.notes("site") == {}
    for name, says in (
        ("width", "own and stays; yours are score, site"),
        ("vector", "stays"),
        ("scor", "did you mean score"),
    ):
        before = filled.version
        with pytest.raises(NearfarError, match=says):
            filled.drop(["site", name])
        assert filled.version == before and "site" in filled.columns


def test_rows_are_deleted(filled):
    assert filled.delete(where="site = 'A' and width < 4") == 2
    assert filled.delete(ids=["01.png", "gone"]) == 1
    assert filled.delete(ids=["03.png", "04.png"], where="site = 'A'") == 1
    assert filled.delete(ids=[]) == 0
    with pytest.raises(NearfarError, match="deleting needs"):
        filled.delete()
    with pytest.raises(NearfarError, match="where="):
        filled.delete("site = 'A'")
    assert filled.ids() == [f"{k:02d}.png" for k in (3, 5, 6, 7, 8, 9, 10, 11)]
    filled.compact()
    assert len(filled) == 8 and np.array_equal(filled.vectors(ids=["09.png"])[1], draw(12)[9:10])


@pytest.mark.parametrize("exact", [None, True, False])
def test_the_nearest_are_those_of_a_slow_search(store, exact):
    vectors, queries = draw(300), draw(7, seed=1)
    sites = ["A", "B", "C"] * 100
    store.upsert(table([f"{k:03d}" for k in range(300)], vectors, site=sites))
    cosine = queries @ vectors.T / np.linalg.norm(vectors, axis=1) / np.linalg.norm(queries, axis=1)[:, None]
    for where, mask in ((None, np.ones(300, bool)), ("site = 'B'", np.array(sites) == "B")):
        order = np.argsort(-np.where(mask, cosine, -9), axis=1)[:, :10]
        names, found = store.nearest(queries * 3, 10, where=where, exact=exact)
        assert names == [[f"{k:03d}" for k in line] for line in order]
        assert np.abs(found - np.take_along_axis(cosine, order, 1)).max() < 2e-6
    names, found = store.nearest(queries, 1000, where="site = 'B'", exact=exact)
    assert found.shape == (7, 100) and all(len(line) == 100 for line in names)
    assert (np.diff(found, axis=1) <= 0).all()


def test_search_sees_every_change_at_once(filled, address):
    other, query = open_store(address), draw(12)[3:4]
    assert filled.nearest(query, 1)[0] == [["03.png"]] == other.nearest(query, 1)[0]
    filled.upsert(table(["twin"], query * 2))
    assert other.nearest(query, 2)[0] == [["03.png", "twin"]]
    filled.upsert(table(["03.png"], -query))
    assert other.nearest(query, 1)[0] == [["twin"]] and other.nearest(query, 13)[0][0][-1] == "03.png"
    filled.delete(ids=["twin"])
    assert other.nearest(query, 1)[0] not in ([["twin"]], [["03.png"]])
    filled.update("site", {"07.png": "Z"})
    assert other.nearest(query, 1, where="site = 'Z'")[0] == [["07.png"]]


def test_a_vector_of_zeros_has_no_direction(store):
    store.upsert(table(["a", "zero"], np.concatenate([draw(1), np.zeros((1, 8), np.float32)])))
    names, cosines = store.nearest(draw(1), 2)
    assert names == [["a", "zero"]] and cosines.tolist() == [[1.0, 0.0]]
    store.upsert(table(["away"], -draw(1)))  # which is farther than a right angle
    assert store.nearest(draw(1), 2)[0] == [["a", "zero"]]


def test_of_equals_the_first_by_id_are_found(store):
    ids = [f"{number:03}" for number in range(300)]
    store.upsert(table(ids[::-1], np.repeat(draw(1), 300, axis=0)))
    store.upsert(table(["best"], draw(1) + np.float32(1e-9), label=["x"]))
    queries = np.concatenate([draw(1), -draw(1), draw(38, seed=2)])
    for k, where, first in ((7, None, ids[:7]), (3, "id >= '100'", ids[100:103]), (1, None, ids[:1])):
        names, cosines = store.nearest(queries, k, where=where)
        assert names == [first] * 40 and cosines.shape == (40, k)


def test_a_connection_that_the_server_ends_is_told_and_made_anew(request):
    address = f"{request.getfixturevalue('server')}&table=ended"
    store, other = open_store(address, INFO), open_store(address)
    store.upsert(table(["a"]))
    for work in (store.ids, store.compact):
        own = store._server.run("select pg_backend_pid()")[0][0]
        other._server.run("select pg_terminate_backend(:own)", own=own)
        with pytest.raises(NearfarError, match="was lost|refused the request"):
            work()
        assert store.ids() == ["a"]


def test_an_empty_store_answers(store):
    assert len(store) == 0 and store.ids() == [] and store.vectors()[1].shape == (0, 8)
    names, cosines = store.nearest(draw(2), 5)
    assert names == [[], []] and cosines.shape == (2, 0)
    store.upsert(table([]))
    store.compact()
    assert store.rows().num_rows == 0 and store.delete(where="width > 1") == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (lambda: table(["a", "b", "a"]), "the id 'a' occurs twice"),
        (lambda: table(["a", None]), "a row has no id"),
        (lambda: table([""]), "a row has no id"),
        (lambda: table(["a\0b"]), "cannot be stored"),
        (lambda: table(["a"], label=["x\0"]), "cannot be stored"),
        (lambda: table(["a"], draw(1, 5)), "has 5 numbers, the store's have 8"),
        (lambda: table(["a"], np.full((1, 8), np.nan, np.float32)), "not finite"),
        (lambda: table(["a"], np.full((1, 8), 1e30, np.float32)), "loses the direction; scale"),
        (lambda: table(["a"], np.full((1, 8), 1e-30, np.float32)), "loses the direction; scale"),
        (lambda: table(["a"], width=["wide"]), "'width' holds a value that is not a number"),
        (lambda: table(["a"], **{"Patient ID": ["x"]}), "such as Patient_ID"),
        (lambda: table(["a"], select=["x"], like=["y"]), "'like'"),
        (lambda: table(["a"], Label=["x"]), "'label' exists already"),
        (lambda: table(["a"], day=[b"x"]), "neither text nor numbers"),
        (lambda: pa.table({"id": ["a"]}), "no column 'vector'"),
        (lambda: pa.table({"id": ["a"], "vector": ["x"]}), "no lists of numbers"),
        (lambda: pa.table({"id": ["a", "b"], "vector": [[1.0] * 8, None]}), "has None numbers"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(store, rows, says):
    before = store.version, store.columns
    with pytest.raises(NearfarError, match=says):
        store.upsert(rows())
    assert (store.version, store.columns) == before and len(store) == 0


def test_mistakes_are_named(filled, address):
    for call, says in (
        (lambda: filled.rows(["sit"]), "did you mean site"),
        (lambda: filled.vectors(ids=["zz"]), "no 'zz'"),
        (lambda: filled.thumbnails(["zz"]), "no 'zz'"),
        (lambda: filled.rows(ids=["00.png", "zz"]), "no 'zz'"),
        (lambda: filled.update("id", {"00.png": "x"}), "cannot be set"),
        (lambda: filled.update("vector", {"00.png": 1}), "cannot be named"),
        (lambda: filled.update("score", {"00.png": "x"}), "holds a number"),
        (lambda: filled.update("mark", {"00.png": "x", "01.png": 1}), "not a"),
        (lambda: filled.nearest(draw(1, 5), 1), r"give \(n, 8\)"),
        (lambda: filled.nearest(draw(1), 0), "ask for 1 or more"),
        (lambda: filled.nearest(np.full((1, 8), np.inf), 1), "not finite"),
        (lambda: open_store(address, StoreInfo(8, "other", "runs/b", {"size": 32})), "runs/a, not runs/b"),
        (lambda: open_store(address, StoreInfo(8, "abc", "runs/a", {"size": 64})), "another encoder"),
        (lambda: open_store(address, StoreInfo(9, "abc", "runs/a", {"size": 32})), "these have 9"),
    ):
        before = filled.version
        with pytest.raises(NearfarError, match=says):
            call()
        assert filled.version == before


def test_writers_at_once_lose_and_double_nothing(store, address):
    failed = []

    def write(who):
        try:
            mine = open_store(address)
            for turn in range(5):
                shared = [f"shared {turn} {k}" for k in range(4)]
                own = [f"{who} {turn} {k}" for k in range(4)]
                mine.upsert(table(shared + own, label=[who] * 8))
                mine.update("mark", {name: float(turn) for name in own})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(store) == len(set(store.ids())) == 20 + 3 * 20
    for who in "abc":
        rows = store.rows(["id", "label", "mark"], where=f"id like '{who} %'").to_pylist()
        assert all(row["label"] == who and row["mark"] == float(row["id"].split()[1]) for row in rows)


def test_more_vectors_than_memory_holds_are_refused_beforehand(
    filled, address, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(base, "available", lambda: 20_000)
    says = r"12 vectors of 8 numbers take about 0.0 GB .* --where"
    for ask in (filled.vectors, lambda: tasks.places(filled, print), lambda: nearfar.image_map(filled)):
        with pytest.raises(NearfarError, match=says):
            ask()
    assert main(["clusters", address]) == 2 and "take a part of them" in capsys.readouterr().err
    assert len(filled.vectors("site = 'A'")[0]) == 6 and len(filled.vectors(ids=filled.ids())[0]) == 12
    assert len(nearfar.image_map(filled, where="site = 'A'")) == 6


def test_ten_thousand_labels_leave_a_small_store(tmp_path: Path) -> None:
    def size() -> int:
        return sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())

    store = open_store(tmp_path / "s.nf", StoreInfo(8))
    vectors, drawn = fixed(np.eye(8, dtype=np.float32)), np.random.default_rng(0)
    thumbnails = [drawn.bytes(4000) for _ in range(8)]
    ids = [f"it's {n}" for n in range(8)]
    store.upsert(pa.table({"id": ids, "vector": vectors, "thumbnail": thumbnails}))
    first, sizes = size(), []
    for number in range(120):
        store.update("label", {f"it's {number % 8}": f"'{number}'" if number % 7 else None})
        sizes.append(size())
    # A merge leaves 70 KB with each, and what is never tidied 10.
    assert max(sizes[60:]) < 1.1 * max(sizes[:60]) and max(sizes) < 8 * first
    store.compact()
    assert size() < 5 * first
    reader = open_store(tmp_path / "s.nf")
    assert reader.thumbnails(ids) == thumbnails
    want = {f"it's {n % 8}": f"'{n}'" if n % 7 else None for n in range(112, 120)}
    assert dict(zip(*reader.rows(["id", "label"]).to_pydict().values(), strict=True)) == want


@pytest.mark.parametrize("count", [1, 3, lance_sql.SET, lance_sql.SET + 1])
def test_few_values_and_many_are_set_alike(count, store):
    """A few are written in SQL, with its quotes; many and what SQL cannot write in a merge."""
    ids = [f"{k} ' \" \\' \n é" for k in range(lance_sql.SET + 1)]
    store.upsert(table(ids, label=["a"] * len(ids), n=[2.5] * len(ids), good=[True] * len(ids)))
    texts = ["'; --", "\\", "\\'", "a\nb", "", None, "ü 漢", "null", "{}", "$1 %s :a"]
    numbers = [1e300, -0.1, 2**53, None, 5e-324, 3, 1e-7]
    want = {
        "label": [texts[k % len(texts)] for k in range(count)],
        "n": [numbers[k % len(numbers)] for k in range(count)],
        "good": [[False, None, True][k % 3] for k in range(count)],
        "new": ["same"] * count,
    }
    some = ids[::-1][:count]
    store.update_columns(
        {name: dict(zip([*some, "gone"], [*v, v[0]], strict=True)) for name, v in want.items()}
    )
    found = store.rows([*want], ids=some).to_pydict()
    assert found == want
    assert len(store) == len(ids) and store.rows(ids=[ids[0]]).to_pylist()[0]["n"] in (2.5, want["n"][-1])


def test_a_text_null_is_a_text(store):
    store.upsert(table(["null", "NULL", 'a"b'], label=["Null", "null", None], note=["null", None, "NULL"]))
    assert store.ids() == ["NULL", 'a"b', "null"]
    assert store.rows(["label", "note"], ids=["null", "NULL", 'a"b']).to_pydict() == {
        "label": ["Null", "null", None],
        "note": ["null", None, "NULL"],
    }
    store.update("label", {"null": "nuLL", 'a"b': "null"})
    assert store.rows(["label"]).to_pydict() == {"label": ["null", "null", "nuLL"]}


def test_columns_are_set_together_and_noted(store, address):
    store.upsert(table(["a", "b"]))
    version = store.version
    store.update("by", {"a": "x"})
    store.update_columns({"label": {"a": "cat", "b": None}, "by": {"a": "me", "b": None}})
    assert store.rows(["label", "by"]).to_pylist() == [
        {"label": "cat", "by": "me"},
        {"label": None, "by": None},
    ]
    with pytest.raises(NearfarError, match="different ids"):
        store.update_columns({"label": {"a": "x"}, "by": {"b": "y"}})
    assert store.notes("label") == {} and store.notes("nothing") == {}
    for words in (["it's", 'a "b" :c \\'], []):
        store.set_notes("label", {"classes": words})
        assert open_store(address).notes("label") == {"classes": words}
    with pytest.raises(NearfarError, match="no column"):
        store.set_notes("nothing", {})
    store.update("label", {"a": "dog"})
    assert open_store(address).notes("label") == {"classes": []} and store.version > version


@pytest.mark.parametrize("word", ["1e400", "1" * 5000, "202401170930120007", "202401170930120007.0"])
def test_numbers_that_floats_do_not_hold_stay_text(word: str) -> None:
    assert values_of("patient", [word, "2", None], None) == [word, "2", None]
    with pytest.raises(NearfarError, match="would round"):
        values_of("patient", [word], "number")
    assert values_of("patient", ["1e20", "3.0"], None) == [1e20, 3.0]


def test_decimal_commas_are_numbers_where_they_cannot_be_thousands(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_shown", True)
    assert values_of("dose", ["1,5", "-12,25", "3", None], None, True) == [1.5, -12.25, 3.0, None]
    assert values_of("dose", ["0,125", "1,5"], "number", True) == [0.125, 1.5]
    assert not capfd.readouterr().err
    for words, commas in ((["1,234", "2,500"], True), (["1,5", "2.5"], True), (["3,4", "5,12"], False)):
        assert values_of("dose", words, None, commas) == words
        assert "the column dose becomes text" in capfd.readouterr().err
    with pytest.raises(NearfarError, match=r"the column dose holds a number in each row, not '1,234'"):
        values_of("dose", ["1,234"], "number", True)
    for words in (["1,5", "much"], ["007,5", "1,5"], ["12345678901234567890,0"]):
        assert values_of("dose", words, None, True) == words


@pytest.mark.parametrize(
    ("text", "commas"),
    [("id;dose\na;1,5\n", True), ("sep=;\nid;dose\na;1,5\n", True), ('id,dose\na,"1,5"\n', False)],
)
def test_a_comma_stands_in_numbers_only_where_it_is_not_between_cells(
    tmp_path: Path, text: str, commas: bool
) -> None:
    (tmp_path / "doses.csv").write_text(text)
    read = read_columns(tmp_path / "doses.csv")
    assert read.commas is commas and read.columns == {"dose": ["1,5"]}


def test_of_a_disk_that_refuses_only_its_own_words_are_told() -> None:
    said = 'lance error: LanceError(IO): Read-only file system (os error 30) at path "/mnt/s.nf/images.lance"'
    assert lance_commits.reason(OSError(said)) == "Read-only file system"
    assert lance_commits.reason(RuntimeError("table is gone, /src/table.rs:1:2")) == "table is gone"
