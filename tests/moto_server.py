"""A real S3 server on this machine, moto's, in a process of its own that ends with this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager
from urllib.parse import quote, unquote, urlsplit

BUCKET, PAGE = "bucket", 7  # keys in a page of a listing, so that every listing has several
CODE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
REQUEST = re.compile(r'"[A-Z]+ (\S+) HTTP/1.1')


class MotoServer:
    """Objects by bucket/key, put and taken over HTTP; what was asked for is read from the server's log."""

    def __init__(self, process, log):
        self._log, self._from = log, 0
        self.address = f"http://127.0.0.1:{int(process.stdout.readline())}"

    def empty(self):
        """Begin anew, with one empty bucket."""
        from obstore.store import S3Store

        for method, path in (("POST", "moto-api/reset"), ("PUT", BUCKET)):
            urllib.request.urlopen(urllib.request.Request(self.url(path), method=method)).read()
        known = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
        self._store = S3Store(BUCKET, endpoint=self.address, client_options={"allow_http": True}, **known)
        self._from = self._log.stat().st_size

    @property
    def asked(self):
        """Requests by path, since the bucket was empty."""
        lines = self._log.read_text()[self._from :]
        return Counter(unquote(urlsplit(path).path).lstrip("/") for path in REQUEST.findall(lines))

    def put(self, path, data):
        self._store.put(path.removeprefix(f"{BUCKET}/"), data)

    def get(self, path):
        return bytes(self._store.get(path.removeprefix(f"{BUCKET}/")).bytes())

    def delete(self, path):
        self._store.delete(path.removeprefix(f"{BUCKET}/"))

    def upload(self, folder, where):
        """Put a folder's files below an address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{where}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        self._from = self._log.stat().st_size

    def url(self, path):
        return f"{self.address}/{quote(path)}"


@contextmanager
def serving(folder):
    """Start a server for a while; its log goes into a folder."""
    log, env = folder / "requests.txt", {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        open(log, "w") as file,
        subprocess.Popen([sys.executable, "-c", CODE], stderr=file, env=env, **pipes) as process,
    ):
        try:
            yield MotoServer(process, log)
        finally:
            process.kill()
