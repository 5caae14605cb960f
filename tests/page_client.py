"""A client of the page's server, over a small store; and how its answers are read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import explored
from starlette.testclient import TestClient

from nearfar.app import server
from nearfar.app.findings import Findings
from nearfar.app.frames import KINDS
from nearfar.app.row_numbers import NumberedStore
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
