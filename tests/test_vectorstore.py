"""One suite for every vector store, and for what each promises alone: rows, conditions, search, refusals."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import server  # noqa: F401

from nearfar.core.errors import NearfarError
from nearfar.stores import StoreInfo, conditions, open_store
from nearfar.stores.columns import values_of
from nearfar.stores.schema import fixed

INFO = StoreInfo(8, "abc", "runs/a", {"size": 32})
NAMES = itertools.count()
HOSTILE = [
    "it's",
    'say "hi"',
    "a\\b",
    "x'; drop table images; --",
    "é/日本 😀.jpg",
    ":v0",
    "%",
    "{1,NULL}",
    "NULL",
]


def draw(count, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def table(ids, vectors=None, **columns):
    return pa.table({"id": ids, "vector": fixed(draw(len(ids)) if vectors is None else vectors), **columns})


@pytest.fixture(params=["lance", "postgres"])
def address(request, tmp_path):
    if request.param == "lance":
        return str(tmp_path / "photos.nf")
    return f"{request.getfixturevalue('server')}&table=t{next(NAMES)}"


@pytest.fixture
def store(address):
    return open_store(address, INFO)


@pytest.fixture
def filled(store):
    """Twelve rows of two sites, some values missing."""
    ids = [f"{k:02d}.png" for k in range(12)]
    store.upsert(
        table(
            ids,
            label=["cat", "dog", None] * 4,
            width=list(range(12)),
            site=["A", "B"] * 6,
            score=[k / 2 if k != 5 else None for k in range(12)],
            good=[True, False, None] * 4,
        )
    )
    return store


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
    bits[~np.isfinite(bits)] = 0
    bits[0] = [np.finfo(np.float32).max, np.finfo(np.float32).tiny, 1e-45, -0.0, 1 / 3, -1, 0, 16777217]
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


CONDITIONS = {
    "site = 'A'": lambda r: r["site"] == "A",
    "site <> 'A' and width >= 7": lambda r: r["site"] != "A" and r["width"] >= 7,
    "SITE": None,
    "width > 3.5 AND width<=5": lambda r: r["width"] in (4, 5),
    "score between 1 and 2": lambda r: r["score"] is not None and 1 <= r["score"] <= 2,
    "score is null or label is null": lambda r: r["score"] is None or r["label"] is None,
    "label is not null and not (label = 'cat')": lambda r: r["label"] == "dog",
    "label in ('cat', 'fox')": lambda r: r["label"] == "cat",
    "label not in ('cat')": lambda r: r["label"] == "dog",
    "good": lambda r: r["good"] is True,
    "not good": lambda r: r["good"] is False,
    "good = false or width = 1e1": lambda r: r["good"] is False or r["width"] == 10,
    "id like '0_.png'": lambda r: r["id"].startswith("0"),
    "id like '%1.p%' and id not like '0%'": lambda r: r["id"] == "11.png",
    "id like '0\\_%'": lambda r: False,
    "id > '03' and id < '05.png'": lambda r: r["id"] in ("03.png", "04.png"),
    "score < -.5 or width in (1, 2.5, +3)": lambda r: r["width"] in (1, 3),
}


@pytest.mark.parametrize("text", [text for text, test in CONDITIONS.items() if test])
def test_conditions_mean_what_they_say(filled, text):
    want = [row["id"] for row in filled.rows().to_pylist() if CONDITIONS[text](row)]
    assert filled.ids(text) == want
    assert filled.rows(["id"], where=text)["id"].to_pylist() == want
    assert filled.vectors(text)[0] == want
    assert filled.rows(["id"], where=text, ids=filled.ids()[::-1])["id"].to_pylist() == want[::-1]
    names, _ = filled.nearest(draw(1), 12, where=text)
    assert sorted(names[0]) == want


REFUSED = [
    *(
        "",
        " ",
        "and",
        "1=1",
        "label",
        "not label",
        "sit = 'A'",
        "site = A",
        "site = 3",
        'site = "A"',
        "good = 1",
    ),
    *(
        "site = 'A'; drop table x",
        "site = 'A' --",
        "site = 'A' /* x */",
        "site = 'A' union select 1",
        "select 1",
    ),
    *(
        "(site = 'A'",
        "site = 'A')",
        "site = 'A",
        "site in ()",
        "site between 'a'",
        "site = 'A' or",
        "site = $1",
    ),
    *(
        "width = '3'",
        "width like '3'",
        "width = 0x10",
        "width = 1e",
        "width > 1e400",
        "width > " + "1" * 5000,
        "width between -1e999 and 3",
        "width = NaN",
        "width + 1 > 2",
        "site = :v0",
    ),
    *(
        "vector is null",
        "_key = 1",
        "random() > 0",
        "pg_sleep(1)",
        "site = 'A' limit 1",
        "width = (select 1)",
    ),
    "(" * 80 + "good" + ")" * 80,
    "good or " * 20_000 + "good",
]


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_nothing_but_a_condition_passes(filled, text):
    before = filled.version
    for call in (filled.ids, lambda w: filled.delete(where=w), lambda w: filled.nearest(draw(1), 1, where=w)):
        with pytest.raises(NearfarError) as refusal:
            call(text)
        assert "\n" not in str(refusal.value)
    assert filled.version == before and len(filled) == 12


def test_a_condition_names_the_columns_there_are(filled):
    with pytest.raises(NearfarError, match=r"'sit', did you mean site.*columns id, path.*site, score, good"):
        filled.ids("sit = 'A'")


@given(st.text(alphabet=st.sampled_from("ab'\"\\%;()=<>, -1.:$`\n")), st.text(max_size=30))
def test_no_text_breaks_out_of_a_value(value, tail):
    columns = {"a": "text", "b": "number"}
    condition = conditions.parse("a = '" + value.replace("'", "''") + "'", columns)
    assert condition == conditions.ColumnTest("a", "=", (value,))
    bound = []
    text = conditions.to_sql(condition, lambda name: f"<{name}>", lambda item: bound.append(item) or "?")
    assert text == "(<a> = ?)" and bound == [value]
    with pytest.raises(NearfarError):
        conditions.parse("b = 1 ; " + tail, columns)


def test_hostile_names_are_only_names(store):
    store.upsert(table(HOSTILE, label=HOSTILE, site=HOSTILE[::-1]))
    assert store.ids() == sorted(HOSTILE, key=lambda name: name.encode())
    for at, name in enumerate(HOSTILE):
        quoted = name.replace("'", "''")
        assert store.ids(f"id = '{quoted}'") == store.ids(f"label in ('{quoted}')") == [name]
        assert np.array_equal(store.vectors(ids=[name])[1], draw(len(HOSTILE))[at : at + 1])
    store.update("site", {name: name for name in HOSTILE})
    assert store.rows(["site"], ids=HOSTILE)["site"].to_pylist() == HOSTILE
    assert store.delete(ids=HOSTILE[:3]) == 3 and len(store) == len(HOSTILE) - 3


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
        (lambda: filled.vectors(ids=["zz"]), "no image 'zz'"),
        (lambda: filled.thumbnails(["zz"]), "no image 'zz'"),
        (lambda: filled.rows(ids=["00.png", "zz"]), "no image 'zz'"),
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


def test_ten_thousand_labels_leave_a_small_store(tmp_path: Path) -> None:
    def size() -> int:
        return sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())

    store = open_store(tmp_path / "s.nf", StoreInfo(8))
    vectors = fixed(np.eye(8, dtype=np.float32))
    store.upsert(pa.table({"id": [f"it's {n}" for n in range(8)], "vector": vectors}))
    sizes = []
    for number in range(120):
        store.update("label", {f"it's {number % 8}": f"'{number}'" if number % 7 else None})
        sizes.append(size())
    assert max(sizes[60:]) < 1.5 * max(sizes[:60]) < 4_000_000  # without tidying, 72 KB more with each
    reader = open_store(tmp_path / "s.nf")
    want = {f"it's {n % 8}": f"'{n}'" if n % 7 else None for n in range(112, 120)}
    assert dict(zip(*reader.rows(["id", "label"]).to_pydict().values(), strict=True)) == want


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
