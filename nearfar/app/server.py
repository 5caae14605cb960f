"""The server of the page: what a browser may ask for, and nothing else."""

from __future__ import annotations

import mimetypes
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from ..core.errors import NearfarError
from ..images.thumbnails import checked
from ..queries.listing import Listing
from ..stores.import_export import export
from .findings import LABELLED, LISTS, Findings
from .frames import frame
from .guard import Guard
from .row_numbers import NumberedStore, StaleRows

HERE = Path(__file__).parent / "static"
_NUMBER = re.compile(r"[0-9]{1,9}")
MOST = 2000  # rows in a request
BINARY = "application/octet-stream"
mimetypes.add_type("text/javascript", ".js")

Number = Annotated[int, Field(ge=0, lt=2**31)]
Key = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(min_length=1, max_length=60)]
Condition = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(max_length=200)] | None


class RequestBody(BaseModel):
    """What a request may hold: nothing but its fields, of their own types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SearchRequest(RequestBody):
    """A search by images of the store."""

    key: Key
    like: list[Number] = Field(min_length=1, max_length=MOST)
    dislike: list[Number] = Field(default=[], max_length=MOST)


class LabelRequest(RequestBody):
    """Labels to set, and what they were in the eyes of who sets them."""

    key: Key
    version: int
    column: Name
    rows: list[Number] = Field(min_length=1, max_length=100_000)
    before: list[Label]
    after: list[Label]


class TrainRequest(RequestBody):
    """A classifier to train on the labels in a column."""

    column: Name


def files() -> dict[str, tuple[bytes, str]]:
    """Read the page's own files, and plotly's script from its package.

    Returns:
        Name to content and kind. The server knows no path but these names.
    """
    import plotly

    found = {path.name: path for path in sorted(HERE.iterdir()) if path.is_file()}
    found["plotly.js"] = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return {
        name: (path.read_bytes(), mimetypes.guess_type(name)[0] or BINARY) for name, path in found.items()
    }


def application(
    rows: NumberedStore, findings: Findings, token: str, names: Iterable[str], column: str = "label"
) -> Any:
    """Make the ASGI application.

    Args:
        rows: the store, numbered.
        findings: of the same store.
        token: lets in who knows it.
        names: names under which the page may be asked for.
        column: with the labels that the page shows and writes.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _refusals(app)
    _files(app)
    _store(app, rows, column)
    _found(app, rows, findings)
    _changes(app, rows, findings)
    return Guard(app, token, names)


def _refusals(app: FastAPI) -> None:
    """Turn what cannot be done into a sentence, with a status of 4xx."""

    @app.exception_handler(NearfarError)
    def cannot(_: Request, error: NearfarError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(StaleRows)
    def moved(_: Request, error: StaleRows) -> Response:
        return JSONResponse({"error": "images were added or deleted; the page loads again."}, 409)

    @app.exception_handler(RequestValidationError)
    def senseless(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": "the request is malformed."}, 422)


def _files(app: FastAPI) -> None:
    """Serve the page and its files."""
    static = files()

    @app.get("/")
    def page() -> Response:
        return asset("index.html")

    @app.get("/static/{name}")
    def asset(name: str) -> Response:
        if name not in static:
            return JSONResponse({"error": "there is nothing here."}, 404)
        content, kind = static[name]
        return Response(content, media_type=kind)


def _store(app: FastAPI, rows: NumberedStore, labels: str) -> None:
    """Give what the store holds."""
    store = rows.store

    @app.get("/api/store")
    def facts() -> dict[str, Any]:
        version = rows.look()
        name = store.address.rstrip("/").rsplit("/", 1)[-1]
        return {
            "name": name.rsplit("@", 1)[-1],
            "count": len(rows.ids),
            "version": version,
            "key": rows.key,
            "columns": store.columns,
            "labels": labels,
        }

    @app.get("/api/version")
    def version() -> dict[str, Any]:
        return {"version": rows.look(), "key": rows.key}

    @app.get("/api/column/{name}")
    def column(name: str) -> Response:
        seen = rows.look()
        found = rows.column(name)
        head = {"kind": found.kind, "names": found.names, "version": seen, "key": rows.key}
        return _framed(head, values=found.values)

    @app.get("/api/cells")
    def cells(at: str, key: str) -> Response:
        ids = _named(rows, at, key)
        pictures = [checked(data) for data in store.thumbnails(ids)]
        head = {"rows": [_plains(row) for row in store.rows(ids=ids).to_pylist()]}
        sizes = np.array([len(data) for data in pictures], np.int32)
        whole = np.frombuffer(b"".join(pictures), np.uint8)
        return _framed(head, sizes=sizes, bytes=whole)

    @app.get("/api/where")
    def where(where: Condition) -> Response:
        return _framed({"key": rows.key}, rows=rows.numbers(store.ids(where)))

    @app.get("/api/export/{form}")
    def export_(form: str) -> Response:
        if form not in ("csv", "parquet"):
            return JSONResponse({"error": "there is no such format."}, 404)
        folder = tempfile.TemporaryDirectory()
        name = f"export.{form}"
        export(store, Path(folder.name) / name)
        done = BackgroundTask(folder.cleanup)
        return FileResponse(Path(folder.name) / name, media_type=BINARY, filename=name, background=done)


def _found(app: FastAPI, rows: NumberedStore, findings: Findings) -> None:
    """Give what is found in the store."""

    @app.get("/api/map")
    def map_() -> Response:
        places = findings.places()
        return _framed({"key": rows.key}, x=places[:, 0], y=places[:, 1])

    @app.get("/api/anomaly-score")
    def anomaly_score() -> Response:
        head = {"kind": "number", "names": [], "key": rows.key}
        return _framed(head, values=findings.anomaly_score())

    @app.get("/api/clusters")
    def clusters() -> Response:
        found = findings.clusters()
        names = [f"cluster {at + 1}" for at in range(int(found.max(initial=-1)) + 1)]
        head = {"kind": "text", "names": names, "key": rows.key}
        return _framed(head, values=found)

    @app.get("/api/list/{name}")
    def list_(name: str, column: Name = "label") -> Response:
        rows.look()
        if name not in LISTS and name not in LABELLED:
            return JSONResponse({"error": "there is no such list."}, 404)
        return _listed(rows, findings.listing(name, column))

    @app.get("/api/heat/{row}")
    def heat(row: Number, key: str) -> Response:
        return Response(findings.heat(*rows.named([row], key)), media_type="image/png")

    @app.post("/api/search")
    def search(asked: SearchRequest) -> Response:
        likes, dislikes = rows.named(asked.like, asked.key), rows.named(asked.dislike, asked.key)
        return _listed(rows, findings.like(likes, dislikes))

    @app.post("/api/search/file")
    async def search_file(request: Request) -> Response:
        data = await request.body()
        return _listed(rows, await run_in_threadpool(findings.like_file, data))


def _changes(app: FastAPI, rows: NumberedStore, findings: Findings) -> None:
    """Take labels in, and learn from them."""

    @app.post("/api/labels")
    def label(asked: LabelRequest) -> Any:
        if not len(asked.rows) == len(asked.before) == len(asked.after):
            raise NearfarError("the request is malformed.")
        ids = rows.named(asked.rows, asked.key)
        seen, others = rows.label(asked.column, ids, asked.before, asked.after, asked.version)
        return {"version": seen, "replaced": [[rows.at[name], others[name]] for name in others]}

    @app.post("/api/train")
    def train(asked: TrainRequest) -> Response:
        listing, facts = findings.classifier(asked.column)
        return _listed(rows, listing, facts=facts)


def _framed(head: dict[str, Any], **arrays: Any) -> Response:
    return Response(frame(head, **arrays), media_type=BINARY)


def _listed(rows: NumberedStore, listing: Listing, **more: Any) -> Response:
    """Answer with a list: numbers of rows, and what is known of each."""
    at = rows.at
    there = [place for place, name in enumerate(listing.ids) if name in at]
    columns = {name: [_plain(values[place]) for place in there] for name, values in listing.columns.items()}
    head = {
        "title": listing.title,
        "lines": listing.lines,
        "grouped": listing.grouped,
        "columns": columns,
    }
    numbers = rows.numbers(listing.ids[place] for place in there)
    return _framed({**head, **more, "key": rows.key}, rows=numbers)


def _named(rows: NumberedStore, at: str, key: str) -> list[str]:
    """Read row numbers from an address."""
    words = at.split(",")
    if len(words) > MOST or not all(_NUMBER.fullmatch(word) for word in words):
        raise NearfarError("the request is malformed.")
    return rows.named([int(word) for word in words], key)


def _plain(value: Any) -> Any:
    """Turn a value into one that JSON has."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plains(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items()}
