"""Opens a vector store as a page in a browser, on this machine alone unless told otherwise."""

from __future__ import annotations

import html
import importlib.util
import ipaddress
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import NearfarError
from ..core.text import as_list, counted
from ..stores import VectorStore, open_store
from .guard import PATIENCE

if TYPE_CHECKING:
    from .findings import Findings
    from .row_numbers import NumberedStore

NEEDED = ("fastapi", "uvicorn", "plotly")
TOKEN_AGE = 30 * 24 * 3600  # seconds
PORTS = range(8200, 8220)  # the first that is free


def explore(
    store: VectorStore | str | Path,
    *,
    run: str | None = None,
    bank: str | None = None,
    column: str = "label",
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
    root_path: str = "",
    hosts: Sequence[str] = (),
) -> None:
    """Serve a page for a browser, to explore and label a store: map, lists, search. Ctrl-C ends it.

    Example: nearfar explore photos.nf

    Args:
        store: a vector store or its address; or a folder of images, which is embedded first.
        run: the run that made the store, if it has moved; needed to search by files.
        bank: a .safetensors file that nearfar anomalies --parts has made of normal images: the page then
            lists images by their most anomalous part.
        column: the column that labels are read from and written to; it is added if missing.
        host: an address of this machine to serve at; 127.0.0.1 is reached from this machine only.
        port: the port to serve at; if not given, the first free one from 8200 on.
        browser: also open the page in a browser.
        root_path: where a proxy serves the page, such as /photos.
        hosts: names under which a proxy serves the page, such as photos.example.org.

    Raises:
        NearfarError: a library is missing, there is no such store, its column holds no labels, or the port is
            taken.
    """
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            raise NearfarError(f"the page needs {module}: pip install 'nearfar[explore]'.")
    import uvicorn

    from .first_look import EarlyPage, FirstLook
    from .guard import Guard, names_of
    from .kept import private_folder

    root = root_path.strip("/")
    if not re.fullmatch(r"[\w.~/-]*", root) or ".." in root:
        raise NearfarError(f"--root-path {root_path} is no path of a page; give one such as /photos.")
    root = f"/{root}" if root else ""
    about = {"column": column, "run": run or ""}
    named = isinstance(store, (str, Path)) and bank is None
    look = FirstLook(str(store) if named else "", about)
    opened = None if look.answers else _open(store, run, bank, column)
    if opened is not None:
        look = FirstLook(opened.rows.store.address, about)
    token = kept_token(private_folder(look.address))
    door = listening(host, port)
    at = door.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{at}/?token={token}"
    holds = look.holds() if opened is None else _holds(opened.rows)
    print(f"{holds} of {look.address}: {address}", flush=True)
    hosts = as_list(hosts)
    for name in hosts:
        print(f"Through the proxy: https://{name}{root}/?token={token}")
    print("Ctrl-C ends it.", flush=True)
    page = EarlyPage(look)
    # No access log: it would hold the token.
    how: dict[str, Any] = {"log_level": "error", "access_log": False, "server_header": False}
    guarded = Guard(page, token, names_of(host), root, hosts)
    server = uvicorn.Server(uvicorn.Config(guarded, http=impatient(), lifespan="off", **how))
    trouble: list[Exception] = []

    def begin() -> None:
        nonlocal opened
        try:
            opened = opened or _open(store, run, bank, column)
            page.become(opened.app, opened.findings.warm)
            opened.findings.begin()
        except Exception as error:
            trouble.append(error)
            page.failed = server.should_exit = True

    opening = threading.Thread(target=begin)
    with tempfile.TemporaryDirectory(prefix="nearfar-") as private:  # that only this user can enter
        if browser:
            _open_browser(address, Path(private))
        opening.start()
        try:
            server.run(sockets=[door])
        finally:
            opening.join()
            if opened is not None:
                page.end()
                opened.findings.jobs.close()
    if trouble:
        raise trouble[0]


@dataclass(frozen=True)
class _Opened:
    """An open store, what is found in it, and what answers the page."""

    rows: NumberedStore
    findings: Findings
    app: Any


def _open(store: VectorStore | str | Path, run: str | None, bank: str | None, column: str) -> _Opened:
    """Open a store, or embed a folder of images first.

    Raises:
        NearfarError: there is no such store, it is empty, or its column holds no labels.
    """
    from ..queries.image_folder import image_folder
    from .filling import Filling
    from .findings import Findings
    from .label_log import LabelLog
    from .row_numbers import NumberedStore
    from .server import routes

    address, filling = "", None
    if isinstance(store, (str, Path)):
        folder = image_folder(store, run)
        address = str(store if folder is None else folder.place)
        filling = None if folder is None else Filling(folder)
        store = open_store(address) if filling is None else filling.opened()
    # Also the images that are set aside: the page shows them where it is asked to.
    rows = NumberedStore(store)
    if not rows.ids:
        raise NearfarError(f"{rows.store.address} holds nothing; fill it with nearfar embed --store.")
    LabelLog(rows).check(column)
    findings = Findings(rows, run, address, filling=filling)
    parts = None
    if bank is not None:
        from .parts import AnomalousParts

        parts = AnomalousParts(rows, findings, bank)
    return _Opened(rows, findings, routes(rows, findings, column, parts))


def _holds(rows: NumberedStore) -> str:
    """Count what a store holds, by its name: "60,000 images"."""
    return counted(len(rows.ids), rows.store.info.one)


def impatient(seconds: float = PATIENCE) -> Any:
    """Make uvicorn's protocol close a connection that sends no whole request head.

    Args:
        seconds: that it may take.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._give_up)

        def _give_up(self) -> None:
            if self.cycle is None:  # no request has begun
                self.transport.close()

    return Impatient


def kept_token(folder: Path) -> str:
    """Give the token of a store's page: the same at every start, so that open pages go on after one.

    Args:
        folder: where it is kept, for this user alone; a token that is 30 days old is replaced.
    """
    path = folder / "token"
    with suppress(OSError):
        info = path.stat()
        if info.st_mode & 0o077 == 0 and time.time() - info.st_mtime < TOKEN_AGE:
            token = path.read_text(encoding="ascii", errors="ignore").strip()
            if re.fullmatch(r"[\w-]{32,64}", token):
                return token
    token = secrets.token_urlsafe(24)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return token  # kept nowhere: pages that are open have to be opened again after the next start
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(token)
    return token


def _open_browser(address: str, folder: Path) -> None:
    """Open the page by way of a private file: every user of a machine can read a browser's command line."""
    import webbrowser

    page = folder / "open.html"
    page.touch(mode=0o600)
    page.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">', encoding="utf-8")
    webbrowser.open(page.as_uri())


def listening(host: str, port: int | None) -> Any:
    """Bind a socket.

    Args:
        host: an address of this machine.
        port: where to, or None for the first free one of PORTS, or any.

    Raises:
        NearfarError: it is taken, or no address of this machine.
    """
    family = socket.AF_INET6 if _is_v6(host) else socket.AF_INET
    for one in (*PORTS, 0) if port is None else (port,):
        door = socket.socket(family, socket.SOCK_STREAM)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, one))
            door.listen()
            return door
        except (OSError, OverflowError) as error:
            door.close()
            reason = getattr(error, "strerror", None) or error
    raise NearfarError(
        f"the page cannot be served at {host} port {port} ({reason}); choose another with --host or --port."
    )


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
