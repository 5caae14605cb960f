"""Answers what the page's first look needs from the last time, while the store is being opened.

Opening a store takes seconds, most of them to import LanceDB. The answers that draw the map are kept with the
state of the store's files; where these are as they were, the answers are still true.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..core.atomic import atomic_write
from ..core.plain_path import from_home
from ..core.shapes import loads
from ..core.text import counted
from ..core.version import __version__
from ..stores.lancedb import TABLE
from ..stores.set_aside import SET_ASIDE
from .kept import private_folder
from .page_files import page_files

MAP = "/api/map"
FILE = "first-look.result"
BREATH = 0.02  # seconds between two looks at whether the store is open
Answer = tuple[str, bytes]  # kind and content


def state_of(address: str) -> str:
    """Name the state of a store's files without opening it; "" where that cannot be told.

    LanceDB writes one file for each version of a table, and never changes one.

    Args:
        address: the store's.
    """
    if "://" in address:
        return ""
    folder = from_home(address or "-") / f"{TABLE}.lance" / "_versions"
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    except OSError:
        return ""
    return hashlib.blake2b(repr((__version__, found)).encode(), digest_size=16).hexdigest()


class FirstLook:
    """What the first look of a page needs, in a file."""

    def __init__(self, address: str, about: Mapping[str, str]) -> None:
        """Read what is kept.

        Args:
            address: the store's, or "".
            about: what answers depend on besides the store, such as the column with the labels.
        """
        self.address, self._path = address, private_folder(address) / FILE
        self._about = dict(about)
        self.answers: dict[str, Answer] = {}
        self._state, self._lock = "", threading.Lock()
        with suppress(OSError, ValueError, KeyError, TypeError):
            head, _, data = self._path.read_bytes().partition(b"\n")
            said, at = loads(head), 0
            if said["about"] == self._about and said["state"] == state_of(address) != "":
                for path, kind, length in said["answers"]:
                    self.answers[path] = (kind, data[at : at + length])
                    at += length
                self._state = said["state"]

    def holds(self) -> str:
        """Count what the store holds, by its name: "60,000 images"; nothing where that is not known."""
        with suppress(KeyError, ValueError, TypeError):
            facts = loads(self.answers["/api/store"][1])
            return counted(int(facts["count"]), str(facts["one"]))
        return "nothing"

    def keep(self, app: Any) -> None:
        """Keep the answers for the next start, unless they are kept, or the map is not laid out yet.

        Args:
            app: answers.
        """
        with self._lock:
            # A first look at labels notes the order of their classes in the store, which changes it once.
            for _ in range(2):
                state = state_of(self.address)
                if not state or state == self._state:
                    return
                found = self._found(app)
                if found is None:
                    return
                if state == state_of(self.address):
                    return self._write(state, found)

    def _found(self, app: Any) -> dict[str, Answer] | None:
        """Ask for the answers to keep; None where one is not there yet."""
        columns = [f"/api/column/{name}" for name in (self._about["column"], SET_ASIDE)]
        found: dict[str, Answer] = {}
        for path in (MAP, "/api/store", "/api/version", *columns):
            status, kind, content = asyncio.run(_asked(app, path))
            if path == "/api/version" and loads(content).get("filling"):
                return None  # more images come
            if status == 200:
                found[path] = (kind, content)
            elif path not in columns:  # a store need not have these
                return None
        return found

    def _write(self, state: str, found: Mapping[str, Answer]) -> None:
        head = {
            "about": self._about,
            "state": state,
            "answers": [[path, kind, len(content)] for path, (kind, content) in found.items()],
        }
        with suppress(OSError):  # a full disk costs the next start its time
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic_write(self._path) as file:
                file.write(json.dumps(head).encode() + b"\n")
                file.writelines(content for _, content in found.values())
            self._state = state


class EarlyPage:
    """An ASGI application that gives the first answers until another one is there, and then stands back."""

    def __init__(self, look: FirstLook) -> None:
        """Begin without the other.

        Args:
            look: has the first answers.
        """
        self.look = look
        self.app: Any = None
        self.failed = False  # whether the other will never be there
        self._first, self._shown = look.answers, False
        self._then: Callable[[], None]
        if self._first:
            files = {name: (kind, content) for name, (content, kind) in page_files().items()}
            self._first = {
                **self._first,
                "/": files["index.html"],
                **{f"/static/{name}": answer for name, answer in files.items()},
            }

    def become(self, app: Any, then: Callable[[], None]) -> None:
        """Hand over to the whole application.

        Args:
            app: answers from now on.
            then: is called in a thread, once, when the page has its map.
        """
        early, self._then, self.app, self._first = bool(self._first), then, app, {}
        if early:
            self._show()

    def end(self) -> None:
        """Keep the answers as they are at the end."""
        if self._shown:
            self.look.keep(self.app)

    def _show(self) -> None:
        """Do what waited for the map."""
        if not self._shown:
            self._shown = True
            threading.Thread(target=self._after, daemon=True).start()

    def _after(self) -> None:
        self.look.keep(self.app)
        self._then()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or pass it on."""
        if self.app is None and scope["method"] == "GET":
            plain = scope["path"] == "/" or not scope["query_string"]  # the token may stand in the address
            known = self._first.get(scope["path"]) if plain else None
            if known is not None:
                return await _answer(send, 200, *known)
        while self.app is None:
            if self.failed:
                return await _answer(send, 503, "text/plain", b"nearfar: the store cannot be opened.\n")
            await asyncio.sleep(BREATH)

        async def seen(message: Any) -> None:
            await send(message)
            if message.get("status") == 200:
                self._show()

        await self.app(scope, receive, seen if scope["path"] == MAP else send)


async def _answer(send: Any, status: int, kind: str, content: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _asked(app: Any, path: str) -> tuple[int, str, bytes]:
    """Ask an ASGI application: the status, the kind and the content of its answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
    }
    status, kind, content = 0, "", bytearray()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, kind
        if message["type"] == "http.response.start":
            status = message["status"]
            kind = dict(message["headers"]).get(b"content-type", b"").decode()
        content.extend(message.get("body", b""))

    await app(scope, receive, send)
    return status, kind, bytes(content)
