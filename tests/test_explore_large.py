"""The page of a store whose vectors memory does not hold: it pages and searches, and refuses the rest."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from page_client import HOME, TOKEN, TestClient, explored, opened, server
from pytest import MonkeyPatch

from nearfar.app.findings import Findings
from nearfar.app.row_numbers import NumberedStore
from nearfar.app.sorted_names import SortedNames
from nearfar.stores import base, open_store


def test_names_are_found_as_in_a_list() -> None:
    names = sorted({f"{'é' * (k % 3)}{k * 7919 % 3001}" for k in range(3000)} | {"", "\U0001f600", "\uffee"})
    found = SortedNames(pa.array(names))
    assert list(found) == names and found[::-7] == names[::-7] and found[5] == names[5]
    assert [found.find(name) for name in names] == list(range(len(names)))
    for asked in (["no", *names[::-1], "zz"], ["no", names[9]]):
        wanted = [names.index(name) if name in names else -1 for name in asked]
        assert found.places(asked).tolist() == wanted
    assert "no" not in found and names[3] in found and SortedNames(pa.array([], pa.string())).find("a") == -1
    assert found.digest() != SortedNames(pa.array(names[:-1])).digest()


def test_a_store_too_large_for_memory_is_paged_and_searched(tmp_path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    store = explored.plain(tmp_path, labels=["cat", None] * 60)
    monkeypatch.setattr(base, "available", lambda: 30_000)
    rows = NumberedStore(open_store(store.address))
    app = server.application(rows, Findings(rows), TOKEN, {"localhost"})
    with TestClient(app, base_url=HOME) as client:
        client.get(f"/?token={TOKEN}")
        facts = client.get("/api/store").json()
        key = facts["key"]
        assert facts["count"] == 120
        told = opened(client.get(f"/api/cells?at=0,60,119&key={key}").content)
        assert [row["id"] for row in told["head"]["rows"]] == ["000.png", "060.png", "119.png"]
        where = client.get("/api/where", params={"where": "site = 'north'"})
        assert np.array_equal(opened(where.content)["rows"], np.arange(0, 120, 3))
        assert opened(client.get("/api/column/label").content)["head"]["names"] == ["cat"]
        assert len(opened(client.get("/api/order/site").content)["rank"]) == 120
        assert client.get(f"/api/photo/7?key={key}").status_code == 200
        asked = {"key": key, "like": [0], "dislike": [], "where": None}
        near = opened(client.post("/api/search", json=asked, headers={"Origin": HOME}).content)
        assert {0, 117, 118, 119} == {*near["rows"][:4].tolist()}
        lists = [f"list/{name}" for name in ("anomalies", "duplicates", "clusters", "label-errors")]
        for what in ("map", "clusters", "anomaly-score", *lists):
            refused = client.get(f"/api/{what}")
            assert refused.status_code == 400 and "take a part of them" in refused.json()["error"], what
        some = client.get("/api/list/anomalies", params={"where": "id like '%7.png'"})
        assert some.status_code == 200 and len(opened(some.content)["rows"]) == 12
