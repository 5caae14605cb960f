"""The search index beside a store: codes, fresh rows, damage of its files, recall."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from servers import server  # noqa: F401
from small_store import INFO, draw, table

from nearfar.core.errors import NearfarError
from nearfar.stores import StoreInfo, brute_force, index, open_store, quantised, snapshot
from nearfar.stores.arrow_rows import fixed


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A store whose index begins at 40 fresh rows, codes at 200."""
    monkeypatch.setattr(index, "FRESH", 40)
    monkeypatch.setattr(index, "EXACT", 200)
    store = open_store(tmp_path / "photos.nf", INFO)
    store.upsert(table([f"{k:03d}" for k in range(400)], draw(400), site=["A", "B", "C", "D"] * 100))
    return store


def slow(store, queries, k, where=None):
    names, vectors = store.vectors(where)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    order = np.argsort(-(queries @ unit.T), axis=1, kind="stable")[:, :k]
    return [[names[at] for at in line] for line in order]


def test_codes_take_over_and_find_nearly_all(small, tmp_path):
    queries = draw(50, seed=1)
    assert small.nearest(queries, 10, exact=True)[0] == slow(small, queries, 10)
    assert not snapshot.note(tmp_path / "photos.nf" / "search")["refine"], (
        "who compares all waits for no codes"
    )
    found = small.nearest(queries, 10)[0]
    note = snapshot.note(tmp_path / "photos.nf" / "search")
    assert note["refine"] >= 3 and note["recall"] >= 0.99
    hits = [len({*a} & {*b}) for a, b in zip(found, slow(small, queries, 10), strict=True)]
    assert np.mean(hits) >= 9.9
    where = "site in ('A', 'B', 'C')"
    found = small.nearest(queries, 10, where=where)[0]
    hits = [len({*a} & {*b}) for a, b in zip(found, slow(small, queries, 10, where), strict=True)]
    assert np.mean(hits) >= 9.9
    assert small.nearest(queries, 10, where="site = 'D'")[0] == slow(small, queries, 10, "site = 'D'")


def test_fresh_rows_are_found_and_old_ones_left_out_until_the_copy_is_made_anew(small, tmp_path):
    folder, queries = tmp_path / "photos.nf" / "search", draw(5, seed=2)
    small.nearest(queries, 1)
    first = snapshot.note(folder)["name"]
    small.upsert(table([f"new {k}" for k in range(5)], queries))
    best = [line[0] for line in small.nearest(queries, 10)[0]]
    assert best == [f"new {k}" for k in range(5)] and snapshot.note(folder)["name"] == first
    small.upsert(table(["new 0"], -queries[:1]))
    small.delete(ids=["new 1"])
    for exact in (True, False):
        found = small.nearest(queries, 10, exact=exact)[0]
        assert "new 0" not in found[0] and "new 1" not in found[1] and found[2][0] == "new 2"
    small.update("site", {f"{k:03d}": "Z" for k in range(400)})
    small.compact()
    small.nearest(queries, 1, where="site = 'Z'")
    assert snapshot.note(folder)["name"] == first, "labels and columns are no reason for a new copy"
    small.upsert(table([f"more {k:02d}" for k in range(60)], draw(60, seed=3)))
    assert small.nearest(draw(60, seed=3), 1)[0][7] == ["more 07"]
    assert snapshot.note(folder)["name"] != first
    kept = {path.name.split(".")[0] for path in folder.glob("*.*") if path.name[0].isdigit()}
    assert kept == {str(snapshot.note(folder)["name"])}


def test_a_first_search_names_the_rows_by_its_own_copy(small, monkeypatch):
    """To name those of a store takes half a minute for ten million rows."""
    named, keys = [], small.keys
    monkeypatch.setattr(small, "keys", lambda: named.append(1) or keys())
    queries = draw(5, seed=2)
    assert small.nearest(queries, 10, exact=True)[0] == slow(small, queries, 10) and not named
    small.delete(ids=["000"])
    assert small.nearest(queries, 10, exact=True)[0] == slow(small, queries, 10) and named


@pytest.mark.parametrize("spoilt", ["npy", "arrow", "faiss", "json"])
def test_a_spoilt_copy_is_made_again(small, tmp_path, spoilt):
    queries = draw(5, seed=2)
    want = small.nearest(queries, 10)[0]
    folder = tmp_path / "photos.nf" / "search"
    name = "search.json" if spoilt == "json" else f"{snapshot.note(folder)['name']}.{spoilt}"
    whole = (folder / name).read_bytes()
    for rest in (whole[: len(whole) // 2], b""):
        (folder / name).write_bytes(rest)
        assert open_store(tmp_path / "photos.nf").nearest(queries, 10)[0] == want


@pytest.mark.parametrize("width", [1, 2, 7, 64])
@pytest.mark.parametrize("count", [1, 15, 16, 300])
def test_codes_find_the_nearest_whatever_the_size(tmp_path, width, count):
    store = open_store(tmp_path / "photos.nf", StoreInfo(width))
    vectors = np.random.default_rng(4).normal(size=(count, width)).astype(np.float32)
    store.upsert(pa.table({"id": [f"{k:03d}" for k in range(count)], "vector": fixed(vectors)}))
    found = store.nearest(vectors[:5], 10, exact=False)
    want = store.nearest(vectors[:5], 10, exact=True)
    assert np.allclose(found[1], want[1], atol=1e-5) or width == 64
    assert np.allclose(found[1][:, 0], want[1][:, 0], atol=1e-5)


def test_candidates_grow_until_the_recall_is_reached(tmp_path):
    """Codes of one byte tell 20,000 rows apart so badly that 100 candidates for a neighbour are too few."""
    unit = brute_force.unit_rows(draw(20_000, 4))
    codes = quantised.build(unit, tmp_path / "codes")
    assert codes.refine > 100 and codes.recall >= quantised.RECALL
    queries = brute_force.unit_rows(draw(100, 4, seed=1))
    found = brute_force.weighed(queries, unit, codes.search(queries, 10), 10)[1]
    want = brute_force.best(queries, unit, 10)[1]
    hits = [len({*a} & {*b}) for a, b in zip(found.tolist(), want.tolist(), strict=True)]
    assert np.mean(hits) >= 9.8


def test_a_condition_far_from_the_query_is_met_in_full(small):
    """Rows that meet it are a fifth of all, and none is among the candidates of the query."""
    near = np.zeros((400, 8), np.float32)
    near[:, 0], near[:80, 0] = 1, -1
    near[:, 1:] = np.random.default_rng(5).normal(size=(400, 7)) * 0.1
    sites = ["far"] * 80 + ["near"] * 320
    small.upsert(table([f"{k:03d}" for k in range(400)], near, site=sites))
    query = np.eye(8, dtype=np.float32)[:1]
    found = small.nearest(query, 10, where="site = 'far'")
    assert found[0] == slow(small, query, 10, "site = 'far'")


def test_codes_are_made_alike(small, tmp_path):
    vectors = draw(400)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for name in "ab":
        quantised.build(unit, tmp_path / name)
    a, b = ((tmp_path / name).read_bytes() for name in "ab")
    assert a == b and len(a) > 1000
    assert not list(tmp_path.glob("*.part"))


def test_an_object_store_s_address_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "FRESH", 10)
    address = f"file://{tmp_path}/cloud.nf"
    with pytest.raises(NearfarError, match="there is no vector store at file://"):
        open_store(address)
    store = open_store(address, INFO)
    store.upsert(table([f"{k:02d}" for k in range(30)], draw(30)))
    assert open_store(address).nearest(draw(30)[7:8], 1)[0] == [["07"]]
    assert list((tmp_path / "cache" / "stores").rglob("search.json"))
    assert {path.name for path in (tmp_path / "cloud.nf").iterdir()} == {"images.lance"}
