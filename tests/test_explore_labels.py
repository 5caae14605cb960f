"""What the page's server writes: labels with their origin, undo, set aside; and what no use then counts."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import explored
from page_client import asked
from PIL import Image
from starlette.testclient import TestClient

from nearfar.app import label_log, originals, server
from nearfar.app.changes import user
from nearfar.app.explore import TOKEN_AGE, kept_token
from nearfar.app.findings import Findings
from nearfar.app.kept import KeptResults
from nearfar.app.label_log import LabelLog
from nearfar.app.row_numbers import CLASSES, OTHER, NumberedStore
from nearfar.core.errors import NearfarError
from nearfar.demo import drawings
from nearfar.queries.anomalies import anomalies
from nearfar.queries.duplicates import duplicates
from nearfar.queries.label_errors import label_errors
from nearfar.queries.suggest import suggest
from nearfar.stores import StoreInfo, VectorStore, open_store
from nearfar.stores.manage import store as store_command

TOKEN = "a-token-that-is-known"
COUNT = 120


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    return explored.plain(tmp_path, COUNT)


def served(store: VectorStore, **how: Any) -> TestClient:
    """A browser that has entered."""
    rows = NumberedStore(open_store(store.address))
    app = server.application(rows, Findings(rows), TOKEN, {"localhost"}, **how)
    client = TestClient(app, base_url="http://localhost:8000")
    assert client.get(f"{how.get('root_path', '')}/?token={TOKEN}").status_code == 200
    return client


@pytest.fixture
def client(store: VectorStore) -> Iterator[TestClient]:
    with served(store) as found:
        yield found


def label(client: TestClient, rows: list[int], names: list[str | None], **more: Any) -> Any:
    facts = asked(client, "/api/store")
    body = {"key": facts["key"], "version": facts["version"], "column": "label", "rows": rows}
    before: list[str | None] = [None] * len(rows)
    return asked(client, "/api/labels", json={**body, "before": before, "after": names, **more})


def labels_of(store: VectorStore, column: str = "label") -> list[Any]:
    return open_store(store.address).rows([column])[column].to_pylist()


def test_accepted_predictions_are_not_scored(client: TestClient, store: VectorStore) -> None:
    label(client, [*range(30)], [f"class {row % 3}" for row in range(30)])
    first = asked(client, "/api/train", json={"column": "label"})
    rows, classes = first["rows"].tolist(), first["head"]["columns"]["class"]
    accept = {"origin": "accepted prediction"}
    label(client, rows[:80], classes[:80], **accept)
    second = asked(client, "/api/train", json={"column": "label"})["head"]["facts"]
    told = ("accuracy", "low", "high", "labels")
    assert {key: second[key] for key in told} == {key: first["head"]["facts"][key] for key in told}
    assert second["accepted"] == 80 and not second["used"]
    # Asked to, it learns from them, and still is measured on what people said.
    third = asked(client, "/api/train", json={"column": "label", "accepted": True})["head"]["facts"]
    assert third["used"] and third["labels"] == 30
    # Acceptance is bounded.
    facts = asked(client, "/api/store")
    body = {"key": facts["key"], "version": 0, "column": "label", "rows": [*range(101)]}
    answer = client.post("/api/labels", json={**body, "before": [None] * 101, "after": ["x"] * 101, **accept})
    assert answer.status_code == 400 and "at most 100" in answer.json()["error"]
    # The commands do not count them either, unless asked.
    listed = label_errors(store)
    assert len(listed) == 30 and "accepted from a classifier" in listed.lines[-1]
    assert len(label_errors(store, accepted=True, limit=200)) == 110
    assert len(suggest(store)) == 10 and len(suggest(store, accepted=True)) == 10
    assert "30 of 40" in suggest(store).lines[0] and "110 of 120" in suggest(store, accepted=True).lines[0]


def test_a_label_keeps_where_it_came_from(client: TestClient, store: VectorStore) -> None:
    label(client, [0, 1], ["cat", None], by="Ann")
    label(client, [2], ["cat"], origin="accepted suggestion")
    assert labels_of(store, "label_origin")[:4] == ["hand", None, "accepted suggestion", None]
    assert labels_of(store, "label_by")[:4] == ["Ann", "Ann", user(), None]
    assert all(at.startswith("20") for at in labels_of(store, "label_at")[:3])


def test_a_change_that_is_sent_twice_is_made_once(client: TestClient, store: VectorStore) -> None:
    label(client, [0], ["dog"])
    first = label(client, [0, 1], ["cat", "cat"], before=["dog", None])
    again = label(client, [0, 1], ["cat", "cat"], before=["dog", None])  # its first answer was lost
    assert again["at"] == first["at"] and again["replaced"] == []
    told = asked(client, "/api/undo", json={"column": "label"})
    assert told["at"] == first["at"] and labels_of(store)[:2] == ["dog", None]
    other = label(client, [0], ["dog"], before=["dog"], by="Ann")  # a label that is given anew is a change
    assert other["at"] > first["at"] and labels_of(store, "label_by")[0] == "Ann"


def test_a_long_label_can_be_replaced_and_brought_back(client: TestClient, store: VectorStore) -> None:
    long = "a caption rather than a class " * 20
    store.update("label", {store.ids()[0]: long})
    told = label(client, [0], ["cat"], before=[long])
    assert labels_of(store)[0] == "cat" and told["replaced"] == []
    asked(client, "/api/undo", json={"column": "label"})
    assert labels_of(store)[0] == long


def test_undoing_a_tag_brings_back_what_the_page_did_not_know(client: TestClient, store: VectorStore) -> None:
    ids = store.ids()
    store.update("tag", {ids[0]: "old", ids[1]: "old"})
    body = {"key": asked(client, "/api/store")["key"], "column": "tag", "rows": [2, 1, 0]}
    told = asked(client, "/api/set", json={**body, "before": [None] * 3, "after": ["new"] * 3})
    assert told["before"] == [None, "old", "old"] and labels_of(store, "tag")[:4] == ["new"] * 3 + [None]
    told = asked(client, "/api/set", json={**body, "before": ["new"] * 3, "after": told["before"]})
    assert labels_of(store, "tag")[:3] == ["old", "old", None]


def test_more_classes_than_the_page_tells_apart_are_not_called_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = CLASSES + 30
    names = [f"class {number:04d}" for number in range(many)]
    store = open_store(tmp_path / "many.nf", StoreInfo(2))
    vectors = pa.array([[1.0, float(at)] for at in range(many + 2)], pa.list_(pa.float32()))
    words = [*names, names[-1], None]  # the last class is the most frequent
    ids = [f"{at:04d}" for at in range(many + 2)]
    store.upsert(pa.table({"id": ids, "vector": vectors, "label": words, "site": words}))
    rows = NumberedStore(store)
    found = LabelLog(rows).column("label")
    assert [*found.names] == names and found.values.tolist() == [*range(many), many - 1, -1]
    found = rows.column("site")
    assert len(found.names) == CLASSES and found.values[-3] == found.values[-2] >= 0 > found.values[-1] == -1
    assert (found.values == OTHER).sum() == 30
    # Classes that have come and gone again and again leave room for those that are there.
    monkeypatch.setattr(label_log, "CLASSES", 3)
    for turn in range(4):
        store.update("kind", {one: f"{turn} {at % 3}" for at, one in enumerate(ids)})
        found = LabelLog(rows).column("kind")
        assert [found.names[at] for at in found.values[:3]] == [f"{turn} {at}" for at in range(3)]


def test_a_class_keeps_its_place(client: TestClient, store: VectorStore) -> None:
    label(client, [0, 1], ["dog", "eel"])
    told = label(client, [2], ["ant"])
    assert told["classes"] == ["dog", "eel", "ant"]
    with served(store) as again:  # after a restart, and in another tab
        label(again, [3], ["bee"])
        found = asked(again, "/api/column/label")
        assert found["head"]["names"] == ["dog", "eel", "ant", "bee"]
        assert found["values"][:5].tolist() == [0, 1, 2, 3, -1]
        label(again, [0], [None])  # a class without images keeps it too
    assert asked(client, "/api/column/label")["head"]["names"] == ["dog", "eel", "ant", "bee"]


def test_changes_are_undone_also_after_a_restart(client: TestClient, store: VectorStore) -> None:
    label(client, [0, 1, 2], ["a", "b", "c"])
    at = label(client, [*range(COUNT)], ["all"] * COUNT)["at"]
    assert set(labels_of(store)) == {"all"}
    label(client, [2], ["mine"], by="Ann")
    with served(store) as again:
        told = asked(again, "/api/undo", json={"column": "label"})
        assert told["at"] == at and len(told["labels"]) == COUNT - 1
        assert labels_of(store)[:4] == ["a", "b", "mine", None]  # what Ann did since stays
        assert labels_of(store, "label_origin")[:4] == ["hand", "hand", "hand", None]
        assert len(asked(again, "/api/undo", json={"column": "label"})["labels"]) == 2
        assert asked(again, "/api/undo", json={"column": "label"})["labels"] == []
        asked(again, "/api/undo", json={"column": "label", "by": "Ann"})
    assert labels_of(store)[:4] == [None, None, "all", None]
    nothing = asked(client, "/api/undo", json={"column": "nothing", "at": "' or 1=1"})
    assert nothing["labels"] == []


def test_labels_that_waited_find_their_images(client: TestClient, store: VectorStore) -> None:
    facts = asked(client, "/api/store")
    open_store(store.address).delete(ids=["000.png"])
    late = {"key": facts["key"], "version": facts["version"], "column": "label", "rows": [0, 5]}
    late |= {"before": [None, None], "after": ["x", "y"]}
    assert client.post("/api/labels", json=late).status_code == 409
    assert client.post("/api/labels", json={**late, "ids": ["000.png"]}).status_code == 409
    told = asked(client, "/api/labels", json={**late, "ids": ["000.png", "005.png"]})
    assert told["gone"] == 1
    assert [name for name in labels_of(store) if name] == ["y"] and labels_of(store)[4] == "y"


def test_the_token_survives_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    token = kept_token(folder)
    assert len(token) > 20 and kept_token(folder) == token
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    old = (folder / "token").stat().st_mtime - TOKEN_AGE - 1
    os.utime(folder / "token", (old, old))
    fresh = kept_token(folder)
    assert fresh != token
    (folder / "token").chmod(0o644)  # others could have read it
    assert kept_token(folder) != fresh


def test_a_condition_holds_inside_every_ranking(client: TestClient, store: VectorStore) -> None:
    where = "site = 'south'"
    label(client, [*range(60)], [f"class {row % 2}" for row in range(60)])
    allowed = {int(row) for row in asked(client, f"/api/where?where={where}")["rows"]}
    for name in ("anomalies", "clusters", "label-errors", "suggestions"):
        rows = asked(client, f"/api/list/{name}?where={where}")["rows"].tolist()
        assert rows and {*rows} <= allowed, name
    ranked = anomalies(store, where=where, limit=500)
    rows = asked(client, f"/api/list/anomalies?where={where}")["rows"]
    ids = open_store(store.address).ids()
    assert [ids[row] for row in rows] == list(ranked.ids) and len(rows) == 40
    key = asked(client, "/api/store")["key"]
    near = asked(client, "/api/search", json={"key": key, "like": [0], "where": where})
    assert {*near["rows"].tolist()} == allowed
    assert client.get("/api/list/anomalies?where=nonsense").status_code == 400


def test_what_is_set_aside_is_in_no_use(client: TestClient, store: VectorStore, tmp_path: Path) -> None:
    key = asked(client, "/api/store")["key"]
    rows = [*range(10)]
    body = {"key": key, "column": "set_aside", "rows": rows, "before": [None] * 10, "after": [True] * 10}
    before = asked(client, "/api/list/anomalies")["rows"]
    asked(client, "/api/set", json=body)
    listed = asked(client, "/api/list/anomalies")["rows"]
    assert len(before) == COUNT and len(listed) == COUNT - 10 and listed.min() == 10
    found = asked(client, "/api/search", json={"key": key, "like": [0]})["rows"]
    assert found.min() == 10
    assert len(anomalies(store, limit=500)) == COUNT - 10
    assert len(anomalies(store, limit=500, where="set_aside = true or site = 'south'")) == 40 + 7
    assert len(anomalies(store, limit=500, where="site = 'set_aside' or site = 'south'")) == 40 - 3
    # A condition has to hold by itself: its brackets do not close ours, and errors quote no more than it.
    for wrong in ("site = 'south') or (site = 'north'", "sight = 'south'"):
        with pytest.raises(NearfarError) as error:
            anomalies(store, where=wrong)
        assert wrong in str(error.value) and "is null" not in str(error.value)
    # A list of the rest can be exported, and trained on.
    kept = tmp_path / "kept.csv"
    done = store_command(store.address, export_file=kept, where="set_aside is null").done
    assert done == (f"exported {COUNT - 10:,} rows to {kept}",)
    with pytest.raises(NearfarError, match="give both"):
        store_command(store.address, where="set_aside is null")
    # A tag is a column of its own; nothing else can be written to.
    tag = {**body, "column": "tag", "after": ["look"] * 10}
    asked(client, "/api/set", json=tag)
    assert labels_of(store, "tag")[9:11] == ["look", None]
    asked(client, "/api/set", json={**body, "after": [None] * 10})
    assert len(anomalies(store, limit=500)) == COUNT
    for column in ("id", "digest", "path", "vector", "bad name"):
        assert client.post("/api/set", json={**tag, "column": column}).status_code == 400, column
    assert client.post("/api/set", json={**body, "after": ["text"] * 10}).status_code == 400


def test_a_selection_is_exported_without_vectors(client: TestClient) -> None:
    key = asked(client, "/api/store")["key"]
    answer = client.post("/api/export/csv", json={"key": key, "rows": [5, 2]})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == ["005.png", "002.png"] and "v0" not in rows[0]
    answer = client.post("/api/export/csv", json={"key": key, "rows": [5], "vectors": True})
    assert "v7" in answer.text.splitlines()[0]
    assert "v0" not in client.get("/api/export/csv").text.splitlines()[0]
    assert "v0" in client.get("/api/export/csv?vectors=true").text.splitlines()[0]
    assert client.post("/api/export/csv", json={"key": "old", "rows": [5]}).status_code == 409


def test_a_photo_is_shown_only_if_it_is_the_one_that_was_embedded(
    client: TestClient, store: VectorStore, tmp_path: Path
) -> None:
    key = asked(client, "/api/store")["key"]
    answer = client.get(f"/api/photo/4?key={key}")
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.format == "JPEG" and picture.size == (30, 20)
    assert np.abs(np.asarray(picture)[5, 5].astype(int) - [40, 100, 4]).max() < 8
    assert client.get(f"/api/photo/4?key={key}&side=99999").status_code == 422
    other = tmp_path / "secret.png"
    other.write_bytes(explored.encoded(np.zeros((9, 9, 3), np.uint8), "PNG"))
    os.mkfifo(tmp_path / "pipe")
    for path in (str(other), "/etc/passwd", str(tmp_path / "pipe"), str(tmp_path), "004.png", "/dev/zero"):
        open_store(store.address).update("path", {"004.png": path})
        answer = client.get(f"/api/photo/4?key={key}")
        assert answer.status_code == 400 and "root:" not in answer.text, path
    (tmp_path / "005.png").write_bytes(other.read_bytes())  # changed since
    assert "is not the file that was embedded" in client.get(f"/api/photo/5?key={key}").json()["error"]


def test_a_photo_as_large_as_can_be_embedded_is_shown(tmp_path: Path) -> None:
    Image.new("1", (8200, 6200)).save(tmp_path / "large.png")  # a camera's 50 megapixels
    digest = hashlib.blake2b((tmp_path / "large.png").read_bytes(), digest_size=16).hexdigest()
    made = open_store(tmp_path / "large.nf", StoreInfo(dim=2))
    row = {"id": ["large.png"], "vector": pa.array([[1.0, 0.0]], pa.list_(pa.float32()))}
    made.upsert(pa.table({**row, "path": [str(tmp_path / "large.png")], "digest": [digest]}))
    assert Image.open(io.BytesIO(originals.photo(made, "large.png"))).size == (4096, 3097)


def test_results_are_kept_from_start_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nearfar.app import findings

    store = explored.plain(tmp_path, 40)
    for name in ("anomalies", "clusters", "duplicates"):
        Findings(NumberedStore(store)).listing(name, "label")
    first = Findings(NumberedStore(store))
    made = first.places(), first.clusters(), first.listing("clusters", "label")
    open_store(store.address).update("label", {"000.png": "x"})  # a label changes none of them
    forbidden = dict.fromkeys(findings.TASKS, lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(findings, "TASKS", forbidden)
    second = Findings(NumberedStore(open_store(store.address)))
    assert (second.places() == made[0]).all() and (second.clusters() == made[1]).all()
    assert second.listing("clusters", "label") == made[2]
    # Other images, or other content of one, and they are made again.
    was = KeptResults(NumberedStore(open_store(store.address))).content()
    open_store(store.address).delete(ids=["001.png"])
    assert KeptResults(NumberedStore(open_store(store.address))).content() != was


@pytest.mark.parametrize("strips", [True, False])
def test_behind_a_proxy(store: VectorStore, strips: bool) -> None:
    """A proxy under a path of another host, which passes its own or the page's host on."""
    rows = NumberedStore(open_store(store.address))
    how: dict[str, Any] = {"root_path": "/photos/a", "stated": ["pictures.example.org"]}
    page = server.application(rows, Findings(rows), TOKEN, {"localhost"}, **how)

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith("/photos/a")
            headers = [(key, value) for key, value in scope["headers"] if key != b"host"]
            host = b"pictures.example.org" if strips else b"localhost:8000"
            path = scope["path"].removeprefix("/photos/a") if strips else scope["path"]
            scope = {**scope, "path": path, "headers": [*headers, (b"host", host)], "scheme": "http"}
        await page(scope, receive, send)

    own = {"origin": "https://pictures.example.org", "sec-fetch-site": "same-origin"}
    with TestClient(proxy, base_url="https://pictures.example.org") as browser:
        assert browser.get("/photos/a/api/store").status_code == 403
        first = browser.get(f"/photos/a/?token={TOKEN}")
        assert first.status_code == 200 and "Path=/photos/a;" in first.headers["set-cookie"]
        links = [
            part.split('"')[0] for word in ("href=", "src=") for part in first.text.split(f'{word}"')[1:]
        ]
        assert links and not [link for link in links if link.startswith("/")]
        facts = browser.get("/photos/a/api/store", headers=own).json()
        assert facts["count"] == COUNT
        assert browser.get("/photos/a/static/main.js").status_code == 200
        change = {"key": facts["key"], "version": 0, "column": "label", "rows": [0], "before": [None]}
        body = {**change, "after": ["x"]}
        assert browser.post("/photos/a/api/labels", json=body, headers=own).status_code == 200
        foreign = {**own, "origin": "https://evil.example"}
        assert browser.post("/photos/a/api/labels", json=body, headers=foreign).status_code == 403


def test_copies_of_a_copy_count_as_byte_for_byte(tmp_path: Path) -> None:
    small = drawings.draw("star", 1, seed=0)[0]
    large = np.asarray(Image.fromarray(small).resize((80, 80), Image.Resampling.BICUBIC))
    files = [explored.encoded(pixels, "PNG") for pixels in (large, small, small)]
    store = open_store(tmp_path / "copies.nf", StoreInfo(4))
    table = {
        "id": ["a", "b", "c"],
        "vector": pa.array([[1.0, 2, 3, 4]] * 3, pa.list_(pa.float32())),
        "thumbnail": [explored.encoded(pixels) for pixels in (large, small, small)],
        "digest": [hashlib.blake2b(file, digest_size=16).hexdigest() for file in files],
        "width": [80, 40, 40],
        "height": [80, 40, 40],
    }
    store.upsert(pa.table(table))
    found = duplicates(store)
    assert found.facts["spare"] == 2 and found.facts["exact"] == 1  # b and c; a is the image to keep
    assert "1 of them byte for byte" in found.lines[0]
