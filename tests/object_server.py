"""A played object store here, over real HTTP, for what moto's S3 lacks: faults, other services."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 7  # keys in a page of a listing, so that every listing has several


class ObjectServer:
    """Objects by bucket/key, and what is to go wrong.

    Attributes:
        objects: bytes by path.
        faults: statuses that the next requests of a path get, first come first.
        lost: paths that are listed and not there.
        elsewhere: another server to which requests for objects lead, as a hub's do.
        asked: requests by path.
        tokens: what requests said of who asks.
    """

    def __init__(self):
        self.objects, self.faults, self.lost = {}, defaultdict(list), set()
        self.asked, self.tokens, self.elsewhere = Counter(), set(), None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                pass

            def answer(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_HEAD(self):
                self.do_GET()

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def do_GET(self):
                url = urlsplit(self.path)
                path, query = unquote(url.path).lstrip("/"), parse_qs(url.query)
                server.asked[path] += 1
                server.tokens.add(self.headers.get("Authorization"))
                if server.faults[path]:
                    return self.answer(server.faults[path].pop(0))
                if "list-type" in query:
                    return self.answer(200, server.listing(path.strip("/"), query), Content_Type="text/xml")
                if path.startswith("api/datasets/"):
                    body = json.dumps(server.tree(path)).encode()
                    return self.answer(200, body, Content_Type="application/json")
                if server.elsewhere:
                    return self.answer(302, Location=server.elsewhere.url(path))
                if path not in server.objects or path in server.lost:
                    return self.answer(404)
                data = server.objects[path]
                mark = {"ETag": server.mark(path), "Last_Modified": "Fri, 27 Nov 2026 00:00:00 GMT"}
                if wanted := self.headers.get("Range"):
                    first, last = wanted.removeprefix("bytes=").split("-")
                    low, high = int(first), min(int(last or len(data) - 1), len(data) - 1)
                    mark["Content_Range"] = f"bytes {low}-{high}/{len(data)}"
                    return self.answer(206, data[low : high + 1], **mark)
                if self.command == "HEAD":
                    self.send_response(200)
                    for name, value in mark.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.send_header("Content-Length", str(len(data)))
                    return self.end_headers()
                return self.answer(200, data, **mark)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def mark(self, path):
        return f'"{hashlib.md5(self.objects[path]).hexdigest()}"'

    def listing(self, bucket, query):
        prefix = query.get("prefix", [""])[0]
        keys = sorted(
            path.removeprefix(f"{bucket}/") for path in self.objects if path.startswith(f"{bucket}/")
        )
        keys = [key for key in keys if key.startswith(prefix)]
        start = int(query.get("continuation-token", ["0"])[0])
        page, more = keys[start : start + PAGE], start + PAGE < len(keys)
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-27T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self.mark(f'{bucket}/{key}'))}</ETag><Size>{len(self.objects[f'{bucket}/{key}'])}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>'
            f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{items}</ListBucketResult>"
        ).encode()

    def tree(self, path):
        """List what a hub has below a folder, tree/main/folder, or in a data set, paths-info/main."""
        _, _, org, name, _, _, *folder = path.split("/")
        above = f"datasets/{org}/{name}/resolve/main/"
        held = {key.removeprefix(above): key for key in self.objects if key.startswith(above)}
        return [
            {"type": "file", "path": key, "size": len(self.objects[full]), "oid": self.mark(full).strip('"')}
            for key, full in sorted(held.items())
            if key.startswith("/".join([*folder, ""]) if folder else "")
        ]

    def put(self, path, data):
        self.objects[path] = data

    def get(self, path):
        return self.objects[path]

    def upload(self, folder, bucket):
        """Put a folder's files into a bucket."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.objects[f"{bucket}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    def url(self, path):
        return f"{self.address}/{quote(path)}"


@contextmanager
def serving():
    """Start a server for a while."""
    server = ObjectServer()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
