"""The page's server: who is let in, what each request gives, and that hostile ones get 4xx alone."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import explored
import forkserver
import pyarrow.parquet as pq
from PIL import Image
from starlette.testclient import TestClient

from nearfar.app import guard, server
from nearfar.app.explore import explore, impatient, listening
from nearfar.app.findings import Findings
from nearfar.app.frames import KINDS, frame
from nearfar.app.row_numbers import NumberedStore
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.stores import open_store

TOKEN = "a-token-that-is-known"
HOME = "http://localhost:8000"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[explored.Explored]:
    with pytest.MonkeyPatch.context() as patch:  # what the page keeps goes with the test
        patch.setenv("NEARFAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield explored.make(tmp_path_factory.mktemp("explored"))


@pytest.fixture
def stranger(there: explored.Explored) -> Iterator[TestClient]:
    """A client without the token."""
    rows = NumberedStore(open_store(there.store.address))
    app = server.application(rows, Findings(rows), TOKEN, {"localhost"})
    with TestClient(app, base_url=HOME) as client:
        yield client


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    assert stranger.get(f"/?token={TOKEN}").status_code == 200
    return stranger


def opened(content: bytes) -> dict[str, Any]:
    """Read a frame, as api.js does."""
    (length,) = struct.unpack("<I", content[:4])
    told, at = json.loads(content[4 : 4 + length]), 4 + length
    found = {"head": told["head"]}
    for part in told["parts"]:
        assert at % 4 == 0
        found[part["name"]] = np.frombuffer(content, KINDS[part["kind"]], part["length"], at)
        at += -(-found[part["name"]].nbytes // 4) * 4
    assert at == len(content)
    return found


def asked(client: TestClient, path: str, **how: Any) -> Any:
    answer = client.request("POST" if how else "GET", path, **how)
    assert answer.status_code == 200, answer.text
    return answer.json() if "json" in answer.headers["content-type"] else opened(answer.content)


def test_frames_come_back() -> None:
    arrays = {
        "a": np.arange(3, dtype=np.float32),
        "b": np.arange(5, dtype=np.uint8),
        "c": np.zeros(0, np.int32),
    }
    found = opened(frame({"ü": [1, None]}, **arrays))
    assert found["head"] == {"ü": [1, None]}
    assert all((found[name] == values).all() for name, values in arrays.items())


def test_only_who_has_the_token_enters(stranger: TestClient) -> None:
    for path in (
        "/",
        "/static/main.js",
        "/api/store",
        "/api/export/csv",
        "/nowhere",
        f"/?token={TOKEN[:-1]}",
    ):
        assert stranger.get(path).status_code == 403, path
    assert stranger.get("/api/store", headers={"cookie": "nearfar-8000=wrong"}).status_code == 403
    answer = stranger.get(f"/?token={TOKEN}")
    assert answer.status_code == 200
    kept = answer.headers["set-cookie"]
    assert f"={TOKEN};" in kept and "HttpOnly" in kept and "SameSite=Strict" in kept
    assert stranger.get("/api/store").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8000", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:8000@evil.example", 421),
        ("", 421),
        ("localhost:port", 421),
        ("[::1", 421),
    ],
)
def test_only_its_own_names_reach_it(client: TestClient, host: str, status: int) -> None:
    assert client.get("/api/version", headers={"host": host}).status_code == status


def test_other_origins_are_refused(client: TestClient) -> None:
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert client.get("/api/store", headers=headers).status_code == 403, headers
    for headers in ({"origin": HOME}, {"sec-fetch-site": "same-origin"}):
        assert client.get("/api/store", headers=headers).status_code == 200, headers


def test_every_answer_is_hardened(client: TestClient) -> None:
    for path in ("/", "/static/page.css", "/api/store", "/api/nothing", "/api/column/nothing"):
        headers = client.get(path).headers
        assert "'unsafe-inline'" not in headers["content-security-policy"].split("style-src")[0]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    text = client.get("/").text
    assert "<script>" not in text and " on" + "click" not in text and " style=" not in text


def test_nothing_but_the_pages_files_is_served(client: TestClient) -> None:
    for path in (
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static/..%5cserver.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/page.css%00.js",
        "/static/",
        "/..%2f..%2fetc/passwd",
        "/api/list/..%2f..%2fstore",
        "/api/export/..%2fcsv",
        "/openapi.json",
        "/docs",
    ):
        assert client.get(path).status_code in (400, 404), path
    for name, (content, kind) in server.files().items():
        answer = client.get(f"/static/{name}")
        assert answer.content == content and answer.headers["content-type"].startswith(kind), name


def test_store_columns_and_conditions(client: TestClient, there: explored.Explored) -> None:
    facts = asked(client, "/api/store")
    assert facts["name"] == "photos.nf" and facts["count"] == 150
    assert facts["columns"]["site"] == "text" and facts["columns"]["depth"] == "number"
    ids = there.store.ids()
    by_id = dict(zip([*explored.EVIL, *(f"{n:03d}.png" for n in range(4, 150))], range(150), strict=True))
    found = asked(client, "/api/column/label")
    names = found["head"]["names"]
    assert names == sorted(explored.FORMS)
    words = [names[code] if code >= 0 else None for code in found["values"]]
    assert words == [there.labels[by_id[name]] for name in ids]
    assert asked(client, "/api/column/depth")["values"].tolist() == [by_id[name] for name in ids]
    rows = asked(client, "/api/where?where=site = 'north' and depth < 30")["rows"]
    assert sorted(by_id[ids[row]] for row in rows) == list(range(0, 30, 3))
    assert client.get("/api/where?where=drop table").status_code == 400
    assert "site" in client.get("/api/where?where=sight = 'a'").json()["error"]


def test_thumbnails_and_rows(client: TestClient, there: explored.Explored) -> None:
    key, ids = asked(client, "/api/store")["key"], there.store.ids()
    wanted = [149, 3, 77]
    found = asked(client, f"/api/cells?at={','.join(map(str, wanted))}&key={key}")
    assert [row["id"] for row in found["head"]["rows"]] == [ids[row] for row in wanted]
    ends = np.cumsum([0, *found["sizes"]])
    parts = [found["bytes"][a:b].tobytes() for a, b in zip(ends, ends[1:], strict=False)]
    assert parts == there.store.thumbnails([ids[row] for row in wanted])


def test_every_list(client: TestClient, there: explored.Explored) -> None:
    ids = there.store.ids()
    for name in ("anomalies", "duplicates", "label-errors", "suggestions", "clusters"):
        found = asked(client, f"/api/list/{name}")
        assert found["head"]["title"] and len(found["rows"]) > 1, name
        assert all(len(values) == len(found["rows"]) for values in found["head"]["columns"].values())
        listed = [ids[row] for row in found["rows"]]
        if name == "duplicates":
            assert {*explored.EVIL[:2]} <= {*listed} and {"060.png", "061.png"} <= {*listed}
        if name == "suggestions":
            labels = there.store.rows(["label"], ids=listed)["label"].to_pylist()
            assert set(labels) == {None}
    assert client.get("/api/list/nothing").status_code == 404
    scores = asked(client, "/api/anomaly-score")["values"]
    first = asked(client, "/api/list/anomalies")["rows"]
    assert scores[first[0]] == scores.max() and len(scores) == 150
    assert len(asked(client, "/api/clusters")["values"]) == 150
    places = asked(client, "/api/map")
    assert len(places["x"]) == len(places["y"]) == 150 and np.isfinite(places["x"]).all()


def test_search_by_image_and_by_file(client: TestClient, there: explored.Explored) -> None:
    key, ids = asked(client, "/api/store")["key"], there.store.ids()
    row = ids.index("070.png")
    found = asked(client, "/api/search", json={"key": key, "like": [row]})
    _, x = there.store.vectors()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert found["rows"][0] == row
    cosines = unit @ unit[row]
    assert np.allclose(found["head"]["columns"]["similarity"], cosines[found["rows"]], atol=1e-5)
    assert (np.diff(found["head"]["columns"]["similarity"]) <= 1e-6).all()
    data = explored.encoded(there.pixels[70], "PNG")
    nearest = asked(client, "/api/search/file", content=data)
    assert nearest["rows"][0] == row and nearest["head"]["columns"]["similarity"][0] > 0.999
    away = asked(client, "/api/search", json={"key": key, "like": [row], "dislike": [int(found["rows"][1])]})
    assert away["rows"].tolist() != found["rows"].tolist()


def test_what_holds_no_labels_takes_none(
    there: explored.Explored, capsys: pytest.CaptureFixture[str]
) -> None:
    for column in ("depth", "digest"):
        assert main(["explore", there.store.address, "--column", column]) == 2
        assert f"the column {column} does not hold text labels" in capsys.readouterr().err
    assert main(["explore", there.store.address, "--column", "my kind"]) == 2
    assert "cannot be named 'my kind'" in capsys.readouterr().err


def test_labels_are_saved_and_other_hands_told(tmp_path: Path, there: explored.Explored) -> None:
    store = open_store(tmp_path / "own.nf", explored.info(there.run))
    store.upsert(there.store.rows().append_column("vector", _vectors(there)))
    rows = NumberedStore(store)
    app = server.application(rows, Findings(rows), TOKEN, {"localhost"})
    with TestClient(app, base_url=HOME) as client:
        client.get(f"/?token={TOKEN}")
        facts = asked(client, "/api/store")
        change = {"key": facts["key"], "column": "label", "rows": [5, 6]}
        was = [store.rows(["label"], ids=[rows.ids[row]])["label"][0].as_py() for row in (5, 6)]
        told = asked(
            client,
            "/api/labels",
            json={**change, "version": facts["version"], "before": was, "after": ["new", None]},
        )
        assert told["replaced"] == []
        assert store.rows(["label"], ids=rows.ids[5:7])["label"].to_pylist() == ["new", None]
        known = asked(client, "/api/version")["version"]
        # Another hand writes through a store of its own; ours wins, and hears of it.
        open_store(store.address).update("label", {rows.ids[5]: "theirs"})
        told = asked(
            client,
            "/api/labels",
            json={**change, "version": known, "before": ["new", None], "after": ["mine", "mine"]},
        )
        assert told["replaced"] == [[5, "theirs"]] and told["version"] != store.version
        assert store.rows(["label"], ids=rows.ids[5:7])["label"].to_pylist() == ["mine", "mine"]
        other = {**change, "version": 0, "before": [None, None], "after": ["a", "b"], "column": "kind"}
        asked(client, "/api/labels", json=other)
        assert store.columns["kind"] == "text"
        for column in ("id", "vector", "path", "depth", "bad name", "drop"):
            answer = client.post("/api/labels", json={**other, "column": column})
            assert answer.status_code == (200 if column == "drop" else 400), column
        # Rows that come or go make old numbers void.
        open_store(store.address).delete(ids=[rows.ids[0]])
        assert client.post("/api/labels", json=other).status_code == 409
        assert client.get(f"/api/cells?at=1&key={facts['key']}").status_code == 409


def _vectors(there: explored.Explored) -> Any:
    import pyarrow as pa

    return pa.array(list(there.store.vectors()[1]), pa.list_(pa.float32()))


def test_a_classifier_and_its_held_out_accuracy(client: TestClient, there: explored.Explored) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = asked(client, "/api/train", json={"column": "label"})
    facts = found["head"]["facts"]
    assert facts["labels"] == 100 and facts["classes"] == 3
    assert facts["low"] <= facts["accuracy"] <= facts["high"] <= 1
    ids, x = there.store.vectors()
    labels = np.array(there.store.rows(["label"])["label"].to_pylist(), object)
    known = np.array([label is not None for label in labels])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    rival = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=2000))
    expected = cross_val_score(rival, x[known], labels[known].astype(str), cv=folds).mean()
    assert abs(facts["accuracy"] - expected) < 0.12
    assert sorted(found["rows"].tolist()) == np.flatnonzero(~known).tolist()
    assert set(found["head"]["columns"]["class"]) <= {*explored.FORMS}
    assert client.post("/api/train", json={"column": "id"}).status_code == 400


def test_a_heat_map_is_a_picture_drawn_anew(client: TestClient, there: explored.Explored) -> None:
    key, ids = asked(client, "/api/store")["key"], there.store.ids()
    row = ids.index("070.png")
    answer = client.get(f"/api/heat/{row}?key={key}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.width == 2 * picture.height
    # What a store names and is no image does not leave the machine.
    kept = there.store.rows(["path"], ids=["070.png"])["path"][0].as_py()
    open_store(there.store.address).update("path", {"070.png": "/etc/passwd"})
    refused = client.get(f"/api/heat/{row}?key={key}")
    assert refused.status_code == 400 and "root:" not in refused.text
    open_store(there.store.address).update("path", {"070.png": kept})


def test_export(client: TestClient, there: explored.Explored, tmp_path: Path) -> None:
    answer = client.get("/api/export/csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == there.store.ids()
    (tmp_path / "x.parquet").write_bytes(client.get("/api/export/parquet").content)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["id"].to_pylist() == there.store.ids()
    assert np.array_equal(np.stack(table["vector"].to_pylist()), there.store.vectors()[1])
    assert client.get("/api/export/pickle").status_code == 404


def _bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + bytes(99)
    )


def test_hostile_uploads_get_a_reason(client: TestClient, there: explored.Explored) -> None:
    good = explored.encoded(there.pixels[0], "PNG")
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    for data in (
        b"",
        b"no image",
        svg,
        _bomb(),
        good[:-40],
        good[:60],
        b"GIF89a" + bytes(50),
        b"\xff\xd8\xff" * 99,
    ):
        answer = client.post("/api/search/file", content=data)
        assert answer.status_code == 400 and answer.json()["error"], data[:20]
    assert client.post("/api/search/file", content=bytes(guard.LARGEST + 1)).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(guard.LARGEST // 2**20 + 2):
            yield bytes(2**20)

    assert client.post("/api/search/file", content=endless()).status_code == 413
    said = {"content-length": "99999999999999999999999999"}
    assert client.post("/api/search/file", content=b"x", headers=said).status_code == 413


def hostile(key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Requests that no page of ours makes: method, path, and the rest."""
    rng = random.Random(0)
    numbers = [
        "-1",
        "150",
        "2147483648",
        "9" * 400,
        "1e3",
        "NaN",
        "٣",
        "",
        ",",
        "1,,2",
        "1;2",
        "0x1",
        "%00",
        "1,-0",
    ]
    for number in numbers:
        yield "GET", f"/api/cells?at={number}&key={key}", {}
    yield "GET", f"/api/cells?at={','.join(['1'] * 3000)}&key={key}", {}
    for bad in ("", "x", "%ff", "'", "a" * 5000):
        yield "GET", f"/api/cells?at=1&key={bad}", {}
        yield "GET", f"/api/column/{bad or '%20'}", {}
        yield "GET", f"/api/list/label-errors?column={bad}", {}
        yield "GET", f"/api/list/{bad or '%20'}", {}
    for where in (
        "",
        "'",
        "1=1",
        "id = 'x' or 1=1",
        "id in (select id from images)",
        "(" * 2000,
        "label like 3",
        "%00",
        "site = '",
        "x" * 60_000,
    ):
        yield "GET", f"/api/where?where={where}", {}
    paths = ("/api/search", "/api/labels", "/api/train")
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1" * 5000,
        b'"x"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe\x00",
        b'{"key": NaN}',
        b'{"key": "\\ud800", "like": [1]}',
    ]
    for path in paths:
        for body in bodies:
            yield "POST", path, {"content": body, "headers": {"content-type": "application/json"}}
        yield "POST", path, {"data": {"key": key}}
        yield "PUT", path, {"json": {}}
        yield "GET", path, {}
    odd = [None, True, "1", -1, 150, 10**30, 1.5, [], {}, "\ud800"]
    for value in odd:
        yield "POST", "/api/search", {"content": json.dumps({"key": key, "like": [value]})}
        yield "POST", "/api/search", {"content": json.dumps({"key": key, "like": value})}
        yield "POST", "/api/train", {"content": json.dumps({"column": value})}
        good = {"key": key, "version": 1, "column": "label", "rows": [1], "before": [None], "after": ["x"]}
        for name in ("rows", "before", "column", "version", "key"):
            if not (name == "version" and type(value) is int) and not (name == "before" and value == []):
                yield "POST", "/api/labels", {"content": json.dumps({**good, name: value})}
    for extra in (
        {"after": ["x" * 201]},
        {"after": ["x", "y"]},
        {"after": [3]},
        {"after": ["\0"]},
        {"after": ["\ud800"]},
        {"more": 1},
    ):
        good = {"key": key, "version": 1, "column": "label", "rows": [1], "before": [None], "after": ["x"]}
        yield "POST", "/api/labels", {"content": json.dumps({**good, **extra})}
    for _ in range(40):
        path = "/" + "".join(rng.choice("./\\%25~?&=;:api*<>'\"é") for _ in range(rng.randrange(1, 30)))
        yield rng.choice(["GET", "POST", "DELETE", "OPTIONS", "HEAD", "TRACE"]), f"/x{path}", {}
    yield "GET", "/api/store", {"headers": {"host": "a\tb"}}
    yield "GET", "/api/store", {"headers": {"origin": b"\xff"}}


def test_hostile_requests_get_4xx_and_nothing_else(client: TestClient, there: explored.Explored) -> None:
    key, before = asked(client, "/api/store")["key"], there.store.version
    count = 0
    for method, path, how in hostile(key):
        status = client.request(method, path, **how).status_code
        assert 400 <= status < 500, (method, path[:80], str(how)[:120], status)
        count += 1
    assert count >= 200
    assert there.store.version == before  # nothing was written
    assert asked(client, "/api/store")["count"] == 150


def test_ports_and_addresses() -> None:
    with listening("127.0.0.1", None) as first:
        taken = first.getsockname()[1]
        with pytest.raises(NearfarError, match="cannot be served at"):
            listening("127.0.0.1", taken)
        with listening("127.0.0.1", None) as second:
            assert second.getsockname()[1] != taken
    with pytest.raises(NearfarError, match="choose another with --host"):
        listening("203.0.113.7", 0)
    assert guard.names_of("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert socket.gethostname() in guard.names_of("0.0.0.0")


def test_the_command_serves_until_it_is_interrupted(there: explored.Explored) -> None:
    words = ["explore", there.store.address, "--port", "0"]
    with forkserver.start(forkserver.NEARFAR, *words) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[-1]
        assert process.stdout.readline() == "Ctrl-C ends it.\n"
        assert line.startswith("150 images of ") and address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200 and b"nearfar" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.split("?")[0], timeout=60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == ""


def test_an_empty_or_missing_store_is_refused(tmp_path: Path, there: explored.Explored) -> None:
    with pytest.raises(NearfarError, match="there is no vector store"):
        explore(tmp_path / "none.nf")
    open_store(tmp_path / "empty.nf", explored.info(there.run))
    with pytest.raises(NearfarError, match="holds no images"):
        explore(tmp_path / "empty.nf")


def test_no_list_of_processes_shows_the_token(there: explored.Explored, tmp_path: Path) -> None:
    script = tmp_path / "browser"
    script.write_text(
        f"#!/bin/sh\necho \"$@\" > '{tmp_path}/part' && mv '{tmp_path}/part' '{tmp_path}/words'\n"
    )
    script.chmod(0o755)
    env = os.environ | {"BROWSER": f"{script} %s"}
    words = ["explore", there.store.address, "--browser"]
    with forkserver.start(forkserver.NEARFAR, *words, env=env) as process:
        assert process.stdout is not None
        token = process.stdout.readline().rstrip().rpartition("token=")[2]
        while not (tmp_path / "words").exists():
            assert process.poll() is None
            time.sleep(0.02)
        told = (tmp_path / "words").read_text().strip()
        assert len(token) > 20 and token not in told
        page = Path(url2pathname(urlsplit(told).path))
        assert token in page.read_text()
        assert page.stat().st_mode & 0o077 == 0 and page.parent.stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert not page.exists()


def test_a_connection_that_sends_no_request_is_closed() -> None:
    """Half-open connections would hold the server's file descriptors for ever."""
    import uvicorn

    async def app(scope: dict, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    door = listening("127.0.0.1", 0)
    how = {"log_level": "error", "lifespan": "off"}
    served = uvicorn.Server(uvicorn.Config(app, http=impatient(0.3), **how))
    thread = threading.Thread(target=served.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    try:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: "):
            with socket.create_connection(door.getsockname(), timeout=30) as held:
                held.sendall(sent)
                assert held.recv(100) == b""  # closed, long before the 30 s
        with socket.create_connection(door.getsockname(), timeout=30) as held:
            held.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"204" in held.recv(100)
    finally:
        served.should_exit = True
        thread.join(30)
