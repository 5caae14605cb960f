"""The server of the page: what a browser may ask for, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ..core.errors import NearfarError
from ..images.thumbnails import checked
from ..stores.import_export import export
from ..stores.set_aside import SET_ASIDE
from . import originals, overlays
from .answers import framed, listed, named_in, numbered, plains
from .changes import add_changes, user
from .findings import Findings
from .guard import Guard
from .jobs import Cancelled, Unfinished
from .kept import private_folder
from .label_log import LabelLog
from .page_files import BINARY, page_files
from .requests import (
    CancelRequest,
    Condition,
    ExportRequest,
    Key,
    Name,
    NormalRequest,
    Number,
    SearchRequest,
    SelectionRequest,
    Side,
    WordsRequest,
)
from .row_numbers import NumberedStore, StaleRows
from .selections import Selections
from .tasks import LABELLED, LISTS

if TYPE_CHECKING:
    from .parts import AnomalousParts


def application(
    rows: NumberedStore,
    findings: Findings,
    token: str,
    names: Iterable[str],
    column: str = "label",
    root_path: str = "",
    stated: Iterable[str] = (),
    parts: AnomalousParts | None = None,
) -> Any:
    """Make the ASGI application, with its guard.

    Args:
        rows: the store, numbered.
        findings: of the same store.
        token: lets in who knows it.
        names: names under which the page may be asked for.
        column: with the labels that the page shows and writes.
        root_path: where a proxy serves the page, such as /photos; "" for the root.
        stated: names under which a proxy serves it.
        parts: scores of the store's images by a bank of normal ones, if there is one.
    """
    return Guard(routes(rows, findings, column, parts), token, names, root_path, stated)


def routes(
    rows: NumberedStore, findings: Findings, column: str = "label", parts: AnomalousParts | None = None
) -> FastAPI:
    """Make what answers the page, without its guard; see `application`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    log = LabelLog(rows)
    _refusals(app)
    _files(app)
    _store(app, rows, log, column, findings, parts is not None)
    _pictures(app, rows)
    _found(app, rows, findings)
    add_changes(app, rows, log, findings)
    if parts is not None:
        _parts(app, rows, parts)
    return app


def _refusals(app: FastAPI) -> None:
    """Turn what cannot be done into a sentence, with a status of 4xx."""

    @app.exception_handler(NearfarError)
    def cannot(_: Request, error: NearfarError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(StaleRows)
    def moved(_: Request, error: StaleRows) -> Response:
        return JSONResponse({"error": "images were added or deleted; the page loads again."}, 409)

    @app.exception_handler(Unfinished)
    def unfinished(_: Request, error: Unfinished) -> Response:
        return JSONResponse(error.told, 202)

    @app.exception_handler(Cancelled)
    def cancelled(_: Request, error: Cancelled) -> Response:
        return JSONResponse({"cancelled": True}, 202)

    @app.exception_handler(HTTPException)
    def absent(_: Request, error: HTTPException) -> Response:
        told = "there is nothing here." if error.status_code in (404, 405) else "the request is malformed."
        return JSONResponse({"error": told}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    def senseless(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": "the request is malformed."}, 422)


def _files(app: FastAPI) -> None:
    """Serve the page and its files."""
    static = page_files()

    @app.get("/")
    def page() -> Response:
        return asset("index.html")

    @app.get("/static/{name}")
    def asset(name: str) -> Response:
        if name not in static:
            return JSONResponse({"error": "there is nothing here."}, 404)
        content, kind = static[name]
        return Response(content, media_type=kind)


def _store(
    app: FastAPI, rows: NumberedStore, log: LabelLog, labels: str, findings: Findings, parts: bool
) -> None:
    """Give what the store holds."""
    store, kept = rows.store, Selections(private_folder(rows.store.address))

    @app.get("/api/store")
    def facts() -> dict[str, Any]:
        version = rows.look()
        name = store.address.rstrip("/").rsplit("/", 1)[-1]
        return {
            "name": name.rsplit("@", 1)[-1],
            "place": private_folder(store.address).name,
            "count": len(rows.ids),
            "version": version,
            "key": rows.key,
            "columns": store.columns,
            "modality": store.info.modality,
            "one": store.info.one,
            "words": findings.takes_words(),
            "labels": labels,
            "by": user(),
            "set_aside": SET_ASIDE,
            "parts": parts,
            "filling": findings.filling and findings.filling.told(len(rows.ids)),
        }

    @app.get("/api/ranking")
    def ranking() -> dict[str, Any]:
        test, sentences = findings.ranking()
        return {"test": test, "sentences": sentences}

    @app.get("/api/version")
    def version() -> dict[str, Any]:
        told = findings.filling and findings.filling.told(len(rows.ids))
        return {"version": rows.look(), "key": rows.key, "filling": told}

    @app.get("/api/column/{name}")
    def column(name: str) -> Response:
        seen = rows.look()
        found = log.column(name) if name == labels else rows.column(name)
        head = {"kind": found.kind, "names": found.names, "version": seen, "key": rows.key}
        return framed(head, values=found.values)

    @app.get("/api/order/{name:path}")
    def order(name: str) -> Response:
        return framed({"key": rows.key}, rank=rows.rank(name))

    @app.get("/api/selections")
    def selections() -> dict[str, Any]:
        return {"names": kept.counts()}

    @app.get("/api/selection")
    def selection(name: Name) -> Response:
        return numbered(rows, kept.all().get(name, []))

    @app.post("/api/selections")
    def keep_selection(asked: SelectionRequest) -> dict[str, Any]:
        kept.keep(asked.name, rows.named(asked.rows, asked.key))
        return {"names": kept.counts()}

    @app.get("/api/where")
    def where(where: Condition) -> Response:
        return numbered(rows, store.ids(where))

    @app.get("/api/export/{form}")
    def export_all(form: str, vectors: bool = False) -> Response:
        return _exported(form, None, vectors)

    @app.post("/api/export/{form}")
    def export_some(form: str, asked: ExportRequest) -> Response:
        return _exported(form, rows.named(asked.rows, asked.key), asked.vectors)

    def _exported(form: str, ids: list[str] | None, vectors: bool) -> Response:
        if form not in ("csv", "parquet"):
            return JSONResponse({"error": "there is no such format."}, 404)
        folder = tempfile.TemporaryDirectory()
        name = f"export.{form}"
        export(store, Path(folder.name) / name, ids, vectors)
        done = BackgroundTask(folder.cleanup)
        return FileResponse(Path(folder.name) / name, media_type=BINARY, filename=name, background=done)


def _pictures(app: FastAPI, rows: NumberedStore) -> None:
    """Give thumbnails, images in full, and sound."""
    store = rows.store

    @app.get("/api/cells")
    def cells(at: str, key: str) -> Response:
        ids = named_in(rows, at, key)
        pictures = [checked(data) for data in store.thumbnails(ids)]
        head = {"rows": [plains(row) for row in store.rows(ids=ids).to_pylist()]}
        return framed(head, **_joined(pictures))

    @app.get("/api/photo/{row}")
    def photo(row: Number, key: str, side: Side = originals.FULL) -> Response:
        (name,) = rows.named([row], key)
        return Response(originals.photo(store, name, side), media_type="image/jpeg")

    @app.get("/api/overlays/{row}")
    def over(row: Number, key: str) -> dict[str, Any]:
        (name,) = rows.named([row], key)
        return overlays.overlays(store, name)

    @app.get("/api/mask/{row}")
    def mask(row: Number, key: str) -> Response:
        (name,) = rows.named([row], key)
        return Response(overlays.mask(store, name), media_type="image/png")

    @app.get("/api/clip/{row}")
    def clip(row: Number, key: str) -> Response:
        (name,) = rows.named([row], key)
        return Response(originals.clip(store, name), media_type="audio/wav")


def _joined(pictures: Sequence[bytes]) -> dict[str, Any]:
    """Put pictures one after the other, for a frame: the bytes of each, and all together."""
    sizes = np.array([len(data) for data in pictures], np.int32)
    return {"sizes": sizes, "bytes": np.frombuffer(b"".join(pictures), np.uint8)}


def _found(app: FastAPI, rows: NumberedStore, findings: Findings) -> None:
    """Give what is found in the store."""

    @app.get("/api/map")
    def map_(job: Key = "") -> Response:
        key, places = findings.by_row("map", findings.places, job)
        return framed({"key": key}, x=places[:, 0], y=places[:, 1])

    @app.get("/api/map/first")
    def first_map(job: Key) -> Response:
        places = findings.jobs.early(job)
        if places is None:
            return JSONResponse({"error": "there is nothing here."}, 404)
        return framed({"key": rows.key}, x=places[:, 0], y=places[:, 1])

    @app.get("/api/anomaly-score")
    def anomaly_score(job: Key = "") -> Response:
        key, found = findings.by_row("anomaly-score", findings.anomaly_score, job)
        return framed({"kind": "number", "names": [], "key": key}, values=found)

    @app.get("/api/clusters")
    def clusters(job: Key = "") -> Response:
        key, found = findings.by_row("clusters", findings.clusters, job)
        names = [f"cluster {at + 1}" for at in range(int(found.max(initial=-1)) + 1)]
        head = {"kind": "text", "names": names, "key": key}
        return framed(head, values=found)

    @app.get("/api/list/{name}")
    def list_(
        name: str,
        column: Name = "label",
        where: Condition | None = None,
        accepted: bool = False,
        job: Key = "",
    ) -> Response:
        rows.look()
        if name not in LISTS and name not in LABELLED:
            return JSONResponse({"error": "there is no such list."}, 404)
        made = partial(findings.listing, name, column, where, accepted)
        return listed(rows, findings.asked(f"list {name} {column} {accepted} {where}", made, job))

    @app.post("/api/cancel")
    def cancel(asked: CancelRequest) -> Any:
        return {"cancelled": findings.jobs.cancel(asked.job)}

    @app.get("/api/heat/{row}")
    def heat(row: Number, key: str) -> Response:
        return Response(findings.heat(*rows.named([row], key)), media_type="image/png")

    @app.get("/api/why/{row}/{other}")
    def why(row: Number, other: Number, key: str, job: Key = "") -> Response:
        from .why import near  # imports torch

        names = rows.named([row, other], key)
        head, pictures = findings.asked(f"why {names}", partial(near, findings, names), job)
        return framed(head, **_joined(pictures))

    @app.post("/api/search")
    def search(asked: SearchRequest) -> Response:
        likes, dislikes = rows.named(asked.like, asked.key), rows.named(asked.dislike, asked.key)
        return listed(rows, findings.like(likes, dislikes, asked.where))

    @app.post("/api/search/words")
    def search_words(asked: WordsRequest) -> Response:
        return listed(rows, findings.like_words(asked.text, asked.where))

    @app.post("/api/search/file")
    async def search_file(request: Request, where: Condition | None = None) -> Response:
        data = await request.body()
        return listed(rows, await run_in_threadpool(findings.like_file, data, where))


def _parts(app: FastAPI, rows: NumberedStore, parts: AnomalousParts) -> None:
    """Give what a bank of normal images says, and take in what is normal."""

    def answer(**more: Any) -> Response:
        head, order, scores = parts.listing()
        told = {"title": "most anomalous parts first", "lines": [], "grouped": ""}
        return framed({**told, **head, **more, "key": rows.key}, rows=order, scores=scores)

    @app.get("/api/parts")
    def list_of_parts() -> Response:
        return answer()

    @app.get("/api/parts/{row}")
    def map_of_parts(row: Number, key: str) -> Response:
        return Response(parts.map(*rows.named([row], key)), media_type="image/jpeg")

    @app.post("/api/normal")
    def normal(asked: NormalRequest) -> Response:
        return answer(added=parts.add(rows.named(asked.rows, asked.key), asked.above))
