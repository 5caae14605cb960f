"""Reads objects at s3://, gs://, hf:// and https:// addresses by obstore, with retries and a cache on disk.

Credentials come from the environment, as the provider's own tools read them; an address that holds any is
refused, since addresses are written to logs and run folders. Requests that fail for a while are repeated with
growing pauses.
"""

from __future__ import annotations

import functools
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..core.errors import BadImage, NearfarError
from ..core.redact import redact
from . import hub_files
from .object_cache import object_cache

SCHEMES = ("s3", "gs", "hf", "http", "https")
RETRIES, LONGEST, GIVEN_UP = 8, 20.0, 180.0  # times, seconds between two of them, seconds in all
TIMEOUT = 60.0  # seconds that an answer may take
BLOCK = 1 << 20  # bytes asked for at a time where a file is read from its start
_ADDRESS = re.compile(r"(s3|gs|hf|http|https)://([^/?#]*)/?(.*)", re.DOTALL | re.IGNORECASE)
_HINTS = {
    "s3": "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or AWS_SKIP_SIGNATURE=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true",
    "hf": "set HF_TOKEN",
}
_PLAIN = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP"}  # what allows an endpoint at http://
_NO_KEY, _HTTP = "the credentials cannot be read", "its endpoint is http://, which encrypts nothing"


def is_address(text: str) -> bool:
    """Tell whether a text names an object, or a folder of such."""
    return _ADDRESS.fullmatch(text) is not None


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it: key, size in bytes, and a mark that changes with its content."""

    key: str
    size: int
    mark: str


@dataclass(frozen=True)
class Bucket:
    """Where objects are: a bucket, or a server.

    Attributes:
        scheme: of `SCHEMES`.
        host: the bucket's or the server's name; of a data set on the Hugging Face hub, datasets/org/name.
    """

    scheme: str
    host: str

    @staticmethod
    def split(address: str) -> tuple[Bucket, str]:
        """Read an address.

        Returns:
            The bucket, and the key in it; a folder's key may be "" or end in /.

        Raises:
            NearfarError: it names no bucket, or holds credentials.
        """
        found = _ADDRESS.fullmatch(address)
        if found is None or not found[2]:
            raise NearfarError(f"{redact(address)!r} names no bucket; write s3://bucket/folder/.")
        if "@" in found[2] or "?" in found[3]:
            raise NearfarError(
                f"{redact(address)} holds credentials or parameters; leave these out, and give credentials "
                "in the environment."
            )
        scheme, host, key = found[1].lower(), found[2], found[3]
        if scheme == "hf":
            words = key.split("/", 2)
            if host != "datasets" or len(words) < 2 or not all(words[:2]):
                raise NearfarError(f"{address!r} names no data set; write hf://datasets/org/name/folder/.")
            host, key = f"datasets/{words[0]}/{words[1]}", "/".join(words[2:])
        return Bucket(scheme, host), key

    def __str__(self) -> str:
        """Write its address."""
        return f"{self.scheme}://{self.host}"

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List the objects whose keys begin with a folder's name, at any depth.

        Args:
            prefix: a folder, or "".

        Raises:
            NearfarError: that is not allowed, or not possible.
        """
        if self.scheme in ("http", "https"):
            raise NearfarError(
                f"{self}/{prefix} cannot be listed, as web servers list nothing; give a list such as "
                f"{self}/{prefix.rstrip('/') or 'photos'}.csv, or shards such as {self}/x-{{000..099}}.tar."
            )
        obstore = _obstore()
        if self.scheme == "hf":
            try:
                for found in hub_files.files(self.host, prefix.rstrip("/")):
                    yield ObjectInfo(*found)
            except NearfarError:
                raise
            except Exception as error:  # the package raises a dozen unrelated kinds
                raise self._refused(prefix, error) from None
            return
        try:
            for some in obstore.list(_client(self), prefix.rstrip("/") or None, chunk_size=1000):
                for item in some:
                    mark = item.get("e_tag") or str(item.get("last_modified"))
                    yield ObjectInfo(item["path"], item["size"], mark)
        except _errors() as error:
            raise self._refused(prefix, error) from None

    def head(self, key: str) -> ObjectInfo:
        """Look at one object.

        Raises:
            BadImage: it cannot be had.
        """
        obstore = _obstore()
        if self.scheme == "hf":
            try:
                return ObjectInfo(*hub_files.file(self.host, key))
            except NearfarError:
                raise
            except Exception as error:  # as in `list`
                raise BadImage(f"unreadable: {_reason(error)}") from None
        try:
            item = obstore.head(_client(self), key)
        except _errors() as error:
            raise BadImage(f"unreadable: {_reason(error)}") from None
        return ObjectInfo(key, item["size"], item.get("e_tag") or str(item.get("last_modified")))

    def read(self, key: str, mark: str = "", start: int = 0, size: int | None = None) -> bytes:
        """Fetch an object, or a part of it; from the cache if it is there.

        Args:
            key: of the object.
            mark: from a listing; what is fetched without one is not kept.
            start: first byte.
            size: how many; None for all.

        Raises:
            BadImage: it cannot be had.
        """
        obstore = _obstore()
        cache, name = object_cache(), f"{self}\0{key}\0{mark}\0{start}\0{size}"
        if mark and (held := cache.get(name)) is not None:
            return held
        try:
            if size is None:
                data = bytes(obstore.get(_client(self), key).bytes())
            else:
                data = bytes(obstore.get_range(_client(self), key, start=start, length=size)) if size else b""
        except _errors() as error:
            raise BadImage(f"unreadable: {_reason(error)}") from None
        if mark:
            cache.put(name, data)
        return data

    def open(self, key: str, info: ObjectInfo | None = None) -> io.BufferedReader:
        """Open an object as a file to read; parts that are skipped are not fetched.

        Args:
            key: of the object.
            info: from a listing; the parts that are read are then kept in the cache.

        Raises:
            BadImage: it cannot be had.
        """
        size, mark = (info.size, info.mark) if info else (self.head(key).size, "")
        return io.BufferedReader(_Reader(self, key, size, mark), BLOCK)

    def refused(self, key: str, reason: str) -> NearfarError:
        """Say that something cannot be read, and what may help."""
        hint = "check the address"
        if "permission" in reason or _NO_KEY in reason:
            hint = _HINTS.get(self.scheme, hint)
        elif _HTTP in reason and self.scheme in _PLAIN:
            hint = f"set {_PLAIN[self.scheme]}=true to allow it"
        return NearfarError(f"{self}/{key} cannot be read ({reason.removeprefix('unreadable: ')}); {hint}.")

    def _refused(self, key: str, error: Exception) -> NearfarError:
        return self.refused(key, _reason(error))


class _Reader(io.RawIOBase):
    """A file whose bytes are fetched as they are read."""

    def __init__(self, bucket: Bucket, key: str, size: int, mark: str) -> None:
        self._bucket, self._key, self._size, self._mark, self._at = bucket, key, size, mark, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._at))
        if size:
            buffer[:size] = self._bucket.read(self._key, self._mark, self._at, size)
            self._at += size
        return size


def _obstore() -> Any:
    try:
        import obstore
    except ModuleNotFoundError:
        raise NearfarError("data at an address needs an extra: pip install 'nearfar[remote]'") from None
    return obstore


_CLIENTS: dict[tuple[int, Bucket], Any] = {}
_LOCK = threading.Lock()


def _client(bucket: Bucket) -> Any:
    """Make the client of a bucket, once in each process."""
    from obstore import store

    with _LOCK:
        name = (os.getpid(), bucket)
        if name not in _CLIENTS:
            pause = {
                "init_backoff": timedelta(seconds=0.2),
                "max_backoff": timedelta(seconds=LONGEST),
                "base": 2,
            }
            how: dict[str, Any] = {
                "retry_config": {
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=GIVEN_UP),
                    "backoff": pause,
                },
                "client_options": {"timeout": timedelta(seconds=TIMEOUT)},
            }
            if bucket.scheme in _PLAIN:
                allowed = os.environ.get(_PLAIN[bucket.scheme], "").lower() in ("true", "1")
                how["client_options"]["allow_http"] = allowed
                kind = store.S3Store if bucket.scheme == "s3" else store.GCSStore
                _CLIENTS[name] = kind(bucket.host, **how)
            elif bucket.scheme == "hf":
                address = hub_files.base(bucket.host)
                how["client_options"] |= {
                    "allow_http": address.startswith("http:"),
                    "default_headers": hub_files.headers(),
                }
                _CLIENTS[name] = store.HTTPStore.from_url(address, **how)
            else:
                how["client_options"]["allow_http"] = bucket.scheme == "http"
                _CLIENTS[name] = store.HTTPStore.from_url(str(bucket), **how)
        return _CLIENTS[name]


@functools.cache
def _errors() -> tuple[type[Exception], ...]:
    """Name what obstore raises."""
    from obstore.exceptions import BaseError

    return (BaseError, OSError, ValueError)


def _reason(error: Exception) -> str:
    """Say in a few words why a request failed; the library's own text may hold an address."""
    name, text = type(error).__name__, str(error)
    if re.search("credential error|service account file|pem file", text, re.IGNORECASE):
        return _NO_KEY
    if "builder error" in text:
        return _HTTP
    if isinstance(error, FileNotFoundError) or "NotFound" in name:
        return "no such object"
    refused = re.search(r" 40[13] |\b40[13] (Client|Unauthorized|Forbidden)", text)
    if "Permission" in name or "Unauthenticated" in name or refused:
        return "permission denied"
    if status := re.search(r"\b(4\d\d|5\d\d) [A-Z][A-Za-z ]+", text):
        return f"the server answers {status[0].strip().lower()}"
    more = re.search(r"HTTP error: ([a-z ]+)", text)
    return f"no answer: {more[1].strip()}" if more else "no answer"
