"""Who the page's server lets in, and that hostile requests get 4xx alone."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import explored
from page_client import HOME, TOKEN, asked, client, opened, stranger, there  # noqa: F401
from starlette.testclient import TestClient

from nearfar.app import guard, page_files
from nearfar.app.explore import impatient, listening


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
    for name, (content, kind) in page_files.page_files().items():
        answer = client.get(f"/static/{name}")
        assert answer.content == content and answer.headers["content-type"].startswith(kind), name


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
        {"after": [""]},
        {"after": [" \t"]},
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
        answer = client.request(method, path, **how)
        status, told = answer.status_code, answer.text
        assert 400 <= status < 500, (method, path[:80], str(how)[:120], status)
        assert told.startswith(('{"error":', "nearfar: ")) or method == "HEAD", (path[:80], told[:80])
        count += 1
    assert count >= 200
    assert there.store.version == before  # nothing was written
    assert asked(client, "/api/store")["count"] == 150


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
