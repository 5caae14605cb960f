"""Opens a vector store as a page in a browser, on this machine alone unless told otherwise."""

from __future__ import annotations

import html
import importlib.util
import ipaddress
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

from ..core.errors import NearfarError
from ..stores import VectorStore

NEEDED = ("fastapi", "uvicorn", "plotly")
PORTS = range(8200, 8220)  # the first that is free


def explore(
    store: VectorStore | str | Path,
    *,
    run: str | None = None,
    column: str = "label",
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
) -> None:
    """Serve a page for a browser, to explore and label a store: map, lists, search. Ctrl-C ends it.

    Example: nearfar explore photos.nf

    Args:
        store: a vector store or its address; or a folder of images, which is embedded first.
        run: the run that made the store, if it has moved; needed to search by files.
        column: the column that labels are read from and written to; it is added if missing.
        host: an address of this machine to serve at; 127.0.0.1 is reached from this machine only.
        port: the port to serve at; if not given, the first free one from 8200 on.
        browser: also open the page in a browser.

    Raises:
        NearfarError: a library is missing, there is no such store, its column holds no labels, or the port is
            taken.
    """
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            raise NearfarError(f"the page needs {module}: pip install 'nearfar[explore]'.")
    import uvicorn

    from ..queries.store_access import open_for_query
    from .findings import Findings
    from .guard import names_of
    from .row_numbers import NumberedStore
    from .server import application

    rows = NumberedStore(open_for_query(store, run=run))
    if not rows.ids:
        raise NearfarError(f"{rows.store.address} holds no images; fill it with nearfar embed --store.")
    rows.labelled(column)
    token = secrets.token_urlsafe(24)
    door = listening(host, port)
    at = door.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{at}/?token={token}"
    app = application(rows, Findings(rows, run), token, names_of(host), column)
    print(f"{len(rows.ids):,} images of {rows.store.address}: {address}\nCtrl-C ends it.", flush=True)
    # No access log: it would hold the token.
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, server_header=False))
    with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:  # that only this user can enter
        if browser:
            _open_browser(address, Path(folder))
        server.run(sockets=[door])


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
