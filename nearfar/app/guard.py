"""Accepts only requests with the token, from the page itself and of bounded size; sets security headers.

A page on a loopback address is within reach of every web site that the same browser has open, and of every
user of the machine. The token keeps out users; the Host and Origin headers keep out sites, also those that
point a name of their own to this address (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

LARGEST = 32 << 20  # bytes of an upload
PATIENCE = 30.0  # seconds that a connection may take to send its request, and between two parts of a body
HEADERS = {
    # plotly writes styles, and its WebGL makes functions, as they draw; else only our own files are run.
    "content-security-policy": "default-src 'none'; script-src 'self' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Guard:
    """Stands before the application, as ASGI middleware."""

    def __init__(
        self, app: Any, token: str, names: Iterable[str], root_path: str = "", stated: Iterable[str] = ()
    ) -> None:
        """Make the guard.

        Args:
            app: what it guards.
            token: who knows it may enter; a cookie keeps it.
            names: names by which the page may be asked for, besides numeric addresses.
            root_path: where a proxy serves the page, such as /photos; it may pass the path on with it or
                without.
            stated: names under which a proxy serves the page.
        """
        self.app, self.token, self.root = app, token, root_path.rstrip("/")
        self.stated = {name.lower() for name in stated}
        self.names = {name.lower() for name in names} | self.stated

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if self.root and (scope["path"] + "/").startswith(self.root + "/"):
            path = scope["path"][len(self.root) :] or "/"
            scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        refused = self._refuse(scope)
        body = b"" if refused else await _body(scope, receive)
        if body is None:
            refused = (413, f"an upload may have {LARGEST >> 20} MB at most, and has to keep coming")
        enters = not refused and scope["path"] == "/" and self._token_in_address(scope)

        async def dressed(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(key, value) for key, value in message["headers"] if key.decode() not in HEADERS]
                more = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                if enters:
                    cookie = (
                        f"{_cookie(scope)}={self.token}; Path={self.root or '/'}; HttpOnly; SameSite=Strict"
                    )
                    more.append((b"set-cookie", cookie.encode()))
                message = {**message, "headers": kept + more}
            await send(message)

        if refused:
            await _answer(dressed, *refused)
            return
        await self.app(scope, _replay(body or b"", receive), dressed)

    def _refuse(self, scope: Any) -> tuple[int, str] | None:
        """Say why a request is not let in, or None."""
        headers = _headers(scope)
        if headers is None:
            return 400, "a header of the request is malformed"
        host = headers.get("host", "")
        if not self._ours(host):
            return 421, "this page is not served under that name"
        origin = headers.get("origin")
        if origin is not None and not self._own_origin(origin, host):
            return 403, "requests come from the page itself"
        # Another server on this machine is the same site, whatever its port, but not the same origin.
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] != "/":
            return 403, "requests come from the page itself"
        if not (self._token_in_address(scope) or self._token_in_cookie(scope, headers)):
            return 403, "open the address that nearfar explore has printed, with its token"
        return None

    def _own_origin(self, origin: str, host: str) -> bool:
        """Tell whether a request comes from the page: a proxy may pass on a host that is not the page's."""
        if origin in (f"http://{host}", f"https://{host}"):
            return True
        try:
            return (urlsplit(origin).hostname or "") in self.stated
        except ValueError:
            return False

    def _ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)  # a number cannot be pointed elsewhere
        except ValueError:
            return False
        return True

    def _token_in_address(self, scope: Any) -> bool:
        try:
            found = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=50).get("token", [""])
        except ValueError:
            return False
        return hmac.compare_digest(found[0].encode(errors="replace"), self.token.encode())

    def _token_in_cookie(self, scope: Any, headers: dict[str, str]) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(_cookie(scope))
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(
            found.value.encode(errors="replace"), self.token.encode()
        )


def names_of(host: str) -> set[str]:
    """Give the names of this machine under which a page bound to `host` may be asked for."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return {"localhost", host} | (set() if local else {socket.gethostname(), socket.getfqdn()})


def _cookie(scope: Any) -> str:
    """Name the cookie by the port, since browsers send one of a machine's pages the cookies of another."""
    server = scope.get("server") or ("", 0)
    return f"nearfar-{server[1]}"


def _headers(scope: Any) -> dict[str, str] | None:
    try:
        pairs = [(key.decode("ascii").lower(), value.decode("latin-1")) for key, value in scope["headers"]]
    except UnicodeDecodeError:
        return None
    hosts = [value for key, value in pairs if key == "host"]
    return dict(pairs) if len(hosts) <= 1 else None


async def _body(scope: Any, receive: Any) -> bytes | None:
    """Read a request's body; None where it is too large, or stops coming."""
    told = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
    if not told.isdigit() or int(told[:20]) > LARGEST:
        return None
    body = bytearray()
    while True:
        try:
            message = await asyncio.wait_for(receive(), PATIENCE)
        except TimeoutError:
            return None
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > LARGEST:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Any) -> Any:
    """Hand a body that was read to the application, and then whatever else comes."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Any, status: int, text: str) -> None:
    kind = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": f"nearfar: {text}.\n".encode()})
