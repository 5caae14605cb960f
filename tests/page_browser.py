"""The page in a real browser: the server, the browser, and what tests ask of a page."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import explored
import numpy as np
import pytest

from nearfar.stores import VectorStore, open_store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install -y --no-install-recommends chromium"
)
TOKEN = "a-token-that-is-known"
COUNT = 150  # images of `server`
WAIT = 60_000  # milliseconds that a flow may take on a slow machine
# A driver of the graphics stack speaks here, not the page.
NOISE = ("GPU stall due to ReadPixels", "Automatic fallback to software WebGL")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[explored.Explored]:
    pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")
    with pytest.MonkeyPatch.context() as patch:  # what the page keeps goes with the test
        patch.setenv("NEARFAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield explored.make(tmp_path_factory.mktemp("explored"))


@contextmanager
def served(there: Any, column: str) -> Iterator[str]:
    """Serve the page as `nearfar explore` does."""
    uvicorn = pytest.importorskip("uvicorn", reason="no uvicorn here: pip install 'nearfar[explore]'")
    pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
    from nearfar.app.findings import Findings
    from nearfar.app.row_numbers import NumberedStore
    from nearfar.app.server import application

    rows = NumberedStore(open_store(there.store.address))
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    door.listen()  # who comes early waits
    app = application(rows, Findings(rows), TOKEN, {"localhost"}, column)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def address(there: explored.Explored) -> Iterator[str]:
    with served(there, "label") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    with driver.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def as_many(route: Any) -> None:
    """Serve the map's script with a low number of points from which the page paints them itself."""
    answer = route.fetch()
    text = answer.text()
    assert "const MANY = 100000;" in text
    route.fulfill(response=answer, body=text.replace("const MANY = 100000;", "const MANY = 100;"))


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open the page; at the end, nothing was wrong in any that was opened."""
    views, said, asked = [], [], []

    def work(
        width: int = 1280, height: int = 860, scheme: str = "light", many: bool = False, **how: Any
    ) -> Any:
        view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, **how)
        view.set_default_timeout(WAIT)
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        view.on("request", lambda request: asked.append(request.url))
        if many:
            view.route("**/static/map.js", as_many)
        view.goto(f"{address}/?token={TOKEN}")
        view.wait_for_selector("body[data-ready]")
        views.append(view)
        return view

    yield work
    for view in views:
        view.close()
    assert [text for text in said if not any(noise in text for noise in NOISE)] == []
    assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []


def until(what: Callable[[], bool]) -> None:
    """Wait for something outside of the browser."""
    end = time.monotonic() + WAIT / 1000
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def title(view: Any, text: str) -> None:
    view.wait_for_function("text => document.getElementById('title').textContent.includes(text)", arg=text)


def focused(view: Any) -> str:
    """Name the image in focus, once the page has heard its name from the server."""
    view.wait_for_function(
        """() => {
            const label = document.querySelector(".cell.focus")?.getAttribute("aria-label") ?? "";
            return label.split(", ")[0] === document.getElementById("which").textContent;
        }"""
    )
    return view.inner_text("#which")


class Server:
    """The page's server, which can be stopped and started again at the same address."""

    def __init__(self, store: VectorStore, bank: Path | None = None, **how: Any) -> None:
        self.store, self.bank, self.port, self.how = store, bank, 0, how
        self.start()

    def start(self) -> None:
        uvicorn = pytest.importorskip("uvicorn", reason="no uvicorn here: pip install 'nearfar[explore]'")
        pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
        from nearfar.app.findings import Findings
        from nearfar.app.row_numbers import NumberedStore
        from nearfar.app.server import application

        rows = NumberedStore(open_store(self.store.address))
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", self.port))
        door.listen()
        self.port = door.getsockname()[1]
        self.findings = Findings(rows, **self.how)
        parts = None
        if self.bank:
            from nearfar.app.parts import AnomalousParts

            parts = AnomalousParts(rows, self.findings, self.bank)
        app = application(rows, self.findings, TOKEN, {"localhost"}, parts=parts)
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [door]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(30)
        self.findings.jobs.close()

    def labels(self, column: str = "label") -> list[Any]:
        store = open_store(self.store.address)
        return store.rows([column])[column].to_pylist() if column in store.columns else [None] * len(store)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    store = explored.plain(tmp_path, COUNT)
    around = np.linspace(0, 2 * np.pi, COUNT, endpoint=False)
    for name, places in (("map_x", np.cos(around)), ("map_y", np.sin(around))):  # which lays the map out
        store.update(name, dict(zip(store.ids(), places.tolist(), strict=True)))
    found = Server(store)
    yield found
    found.stop()


@pytest.fixture
def tabs(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Open tabs of one browser; at the end, nothing was wrong in any."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    said: list[str] = []

    def work(address: str = "") -> Any:
        view = context.new_page()
        view.set_default_timeout(WAIT)
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.goto(f"http://127.0.0.1:{server.port}/?token={TOKEN}{address}")
        ready(view)
        return view

    yield work
    context.close()
    expected = (*NOISE, "Failed to load resource", "ERR_CONNECTION")
    assert [text for text in said if not any(word in text for word in expected)] == []


def ready(view: Any) -> None:
    view.wait_for_selector("body[data-ready]")
    view.focus("#grid")


def shows(view: Any, place: str, text: str) -> None:
    view.wait_for_function(
        "([id, text]) => document.getElementById(id).textContent.includes(text)", arg=[place, text]
    )


def press(view: Any, *keys: str) -> None:
    for key in keys:
        view.keyboard.press(key)


def name_class(view: Any, name: str) -> None:
    press(view, "l")
    view.keyboard.type(name)
    press(view, "Enter")
