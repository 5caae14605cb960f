"""Talks to a PostgreSQL server: reads its address, connects, and turns its errors into NearfarErrors."""

from __future__ import annotations

import getpass
import os
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ..core.errors import NearfarError, nearest
from ..core.redact import HIDDEN, redact, redact_text

_KNOWN = ("host", "sslmode", "table")
_SSL = {"disable": False, "prefer": None, "require": True}
_TABLE = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Address:
    """Where a store lies on a server. `shown` is the address without its password."""

    shown: str
    table: str
    how: dict[str, Any] = field(repr=False)  # the password is among it


def parse(address: str) -> Address:
    """Read an address such as postgresql://user@host:5432/database?table=photos.

    What it leaves out comes from PGUSER, PGPASSWORD, PGHOST and PGPORT; ?host= may name a socket's folder;
    ?sslmode= is disable, prefer, require or verify-full.

    Args:
        address: as typed.

    Returns:
        Its parts, as pg8000 takes them.

    Raises:
        NearfarError: it makes no sense.
    """
    shown = redact(address)
    try:
        parts = urlsplit(address)
        port = parts.port or int(os.environ.get("PGPORT", "5432"))
        sound = "@" not in parts.path + parts.query and not parts.fragment
    except ValueError:  # its text may hold a part of the password
        sound = False
    if not sound:
        raise NearfarError(
            f"{shown} is not a server address; write postgresql://user:password@host:port/database, "
            "and / ? # @ in a password as %2F %3F %23 %40, or set PGPASSWORD."
        )
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    for name in asked:
        if name not in _KNOWN:
            raise NearfarError(f"{shown} has an unknown part {name!r}; {nearest(name, _KNOWN)}")
    table, mode = asked.get("table", "images"), asked.get("sslmode", "prefer")
    if not _TABLE.fullmatch(table):
        raise NearfarError(f"table={table} is not a store name; use lowercase letters, digits and _.")
    if mode not in (*_SSL, "verify-full"):
        raise NearfarError(f"sslmode={mode} is not known; {nearest(mode, (*_SSL, 'verify-full'))}")
    host = asked.get("host") or parts.hostname or os.environ.get("PGHOST", "localhost")
    user = unquote(parts.username or "") or os.environ.get("PGUSER") or getpass.getuser()
    how: dict[str, Any] = {"user": user, "database": unquote(parts.path.strip("/")) or user}
    if password := unquote(parts.password or "") or os.environ.get("PGPASSWORD", ""):
        how["password"] = password
    if host.startswith("/"):
        how["unix_sock"] = f"{host}/.s.PGSQL.{port}"
    else:
        context = ssl.create_default_context() if mode == "verify-full" else _SSL[mode]
        how |= {"host": host, "port": port, "ssl_context": context}
    return Address(shown, table, how)


class Server:
    """One connection, shared by threads in turns, and rebuilt where it was lost."""

    def __init__(self, address: Address) -> None:
        """Prepare; the connection is made when it is first needed."""
        try:
            import pg8000.native
        except ModuleNotFoundError:
            raise NearfarError(
                "a store on a server needs pg8000; type: pip install 'nearfar[postgres]'"
            ) from None
        self._driver, self._address = pg8000.native, address
        self._lock = threading.RLock()
        self._connection: Any = None

    def _connected(self) -> Any:
        if self._connection is None:
            try:
                self._connection = self._driver.Connection(**self._address.how, timeout=None)
            except (self._driver.Error, OSError, ValueError) as error:
                raise NearfarError(
                    f"{self._address.shown} cannot be reached: {self._reason(error)}."
                ) from None
        return self._connection

    @contextmanager
    def _talking(self) -> Iterator[Any]:
        """Have the connection for oneself; one that is lost is given up.

        Yields:
            The connection.

        Raises:
            NearfarError: the server cannot be reached, or refuses.
        """
        with self._lock:
            try:
                yield self._connected()
            except self._driver.DatabaseError as error:
                raise NearfarError(
                    f"{self._address.shown} refused the request: {self._reason(error)}."
                ) from None
            except (self._driver.InterfaceError, OSError) as error:
                self.close()
                raise NearfarError(
                    f"the connection to {self._address.shown} was lost: {self._reason(error)}; try again."
                ) from None

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Do several statements as one: all of it is there in the end, or nothing.

        Yields:
            The connection.

        Raises:
            NearfarError: the server cannot be reached, or refuses.
        """
        with self._talking() as connection:
            try:
                connection.run("begin")
                yield connection
                connection.run("commit")
            except (self._driver.InterfaceError, OSError):
                raise
            except BaseException:
                try:
                    connection.run("rollback")
                except Exception:  # the connection has ended, or is in the middle of an answer
                    self.close()
                raise

    def run(self, text: str, **values: Any) -> list[list[Any]]:
        """Do one statement, values bound, and give what it finds."""
        with self.transaction() as connection:
            return list(connection.run(text, **values) or [])

    def literal(self, text: str) -> str:
        """Write a text as SQL, for the statements that bind no values."""
        return str(self._driver.literal(text))

    def vacuum(self, table: str) -> None:
        """Reclaim the space of deleted rows; this can be part of no transaction."""
        with self._talking() as connection:
            connection.run(f"vacuum analyze {table}")

    def _reason(self, error: Exception) -> str:
        """Say in a few words what a server or the network complains of, without the password."""
        fields = error.args[0] if error.args else ""
        text = str(fields.get("M", "") if isinstance(fields, dict) else error)
        password = self._address.how.get("password", "")
        for secret in (password, quote(password, safe="")):
            text = text.replace(secret, HIDDEN) if secret else text
        return redact_text(text).splitlines()[0].rstrip(".")[:200] if text else type(error).__name__

    def close(self) -> None:
        """Give the connection up."""
        with self._lock, suppress(Exception):
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
