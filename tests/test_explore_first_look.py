"""The second start of the page: its map is answered before the store is open, as long as that is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import explored
from starlette.testclient import TestClient

from nearfar.app import server
from nearfar.app.findings import Findings
from nearfar.app.first_look import EarlyPage, FirstLook
from nearfar.app.row_numbers import NumberedStore
from nearfar.stores import open_store

ABOUT = {"column": "label", "run": ""}
FIRST = ("/api/store", "/api/version", "/api/column/label", "/api/column/set_aside", "/api/map")
CHILD = """
import sys
from starlette.testclient import TestClient
from nearfar.app.first_look import EarlyPage, FirstLook

def without(*names):
    assert not {*names} & {*sys.modules}, sorted({*names} & {*sys.modules})

page = EarlyPage(FirstLook(sys.argv[1], {"column": "label", "run": ""}))
client = TestClient(page)
early = [client.get(path) for path in ("/", "/static/main.js", "/static/plotly.js", *sys.argv[2:])]
assert all(answer.status_code == 200 for answer in early)
without("torch", "lancedb", "pyarrow", "pandas", "fastapi")

from nearfar.app import server
from nearfar.app.findings import Findings
from nearfar.app.row_numbers import NumberedStore
from nearfar.stores import open_store

rows = NumberedStore(open_store(sys.argv[1]))
page.become(server.routes(rows, Findings(rows)), lambda: None)
later = [client.get(path) for path in ("/", "/static/main.js", "/static/plotly.js", *sys.argv[2:])]
assert [answer.content for answer in later] == [answer.content for answer in early]
assert client.get(f"/api/cells?at=0,1&key={rows.key}").status_code == 200
without("torch", "sklearn", "scipy", "numba")
"""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store whose page was looked at once, and that was then changed by nobody."""
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    store = explored.plain(tmp_path, 40, labels=["a", "b", None, None] * 10)
    store.update("set_aside", {"003.png": True})
    look, rows = FirstLook(store.address, ABOUT), NumberedStore(open_store(store.address))
    page = EarlyPage(look)
    assert not look.answers
    page.become(server.routes(rows, Findings(rows)), lambda: None)
    page.end()  # nobody has seen the map yet, so it is not waited for
    assert not FirstLook(store.address, ABOUT).answers
    assert TestClient(page).get("/api/map").status_code == 200
    page.end()
    return store.address


def test_the_map_is_answered_before_the_store_is_open_or_torch_imported(address: str) -> None:
    subprocess.run([sys.executable, "-c", CHILD, address, *FIRST], check=True, timeout=100)


def test_answers_are_kept_as_long_as_they_are_true(address: str) -> None:
    assert FirstLook(address, ABOUT).holds() == "40 images"
    assert not FirstLook(address, {**ABOUT, "column": "site"}).answers
    page = EarlyPage(FirstLook(address, ABOUT))
    page.failed = True  # the store cannot be opened: what is known is answered, and nothing else waits
    assert TestClient(page).get("/api/map").status_code == 200
    assert TestClient(page).get("/api/cells?at=0").status_code == 503
    open_store(address).update("label", {"000.png": "b"})
    assert not FirstLook(address, ABOUT).answers and FirstLook(address, ABOUT).holds() == "nothing"
