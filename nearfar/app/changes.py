"""What the page changes in a store: labels, undo, columns; and the classifier that learns from labels."""

from __future__ import annotations

import getpass
from functools import partial
from typing import Any

from fastapi import FastAPI, Response

from ..core.errors import NearfarError
from ..queries.label_origin import ACCEPTED
from ..stores.set_aside import SET_ASIDE
from .answers import listed
from .findings import Findings
from .label_log import LabelLog
from .requests import Key, LabelRequest, SetRequest, TrainRequest, UndoRequest
from .row_numbers import NumberedStore, StaleRows

MOST_ACCEPTED = 100  # labels accepted from a classifier in one request


def add_changes(app: FastAPI, rows: NumberedStore, log: LabelLog, findings: Findings) -> None:
    """Take labels in, and learn from them.

    Args:
        app: gets the routes.
        rows: the store.
        log: takes labels.
        findings: trains the classifier.
    """

    @app.post("/api/labels")
    def label(asked: LabelRequest) -> Any:
        ids = _meant(rows, asked)
        there = [at for at, name in enumerate(ids) if name in rows.ids]
        if asked.origin in ACCEPTED and len(ids) > MOST_ACCEPTED:
            raise NearfarError(f"at most {MOST_ACCEPTED} labels are accepted at once; choose fewer.")
        change = log.write(
            asked.column,
            [ids[at] for at in there],
            [asked.before[at] for at in there],
            [asked.after[at] for at in there],
            asked.version,
            origin=asked.origin,
            by=asked.by or user(),
        )
        return {
            "version": change.version,
            "at": change.at,
            "classes": log.classes(asked.column),
            "replaced": [[rows.ids.find(name), label] for name, label in change.replaced.items()],
            "gone": len(ids) - len(there),
        }

    @app.post("/api/undo")
    def undo(asked: UndoRequest) -> Any:
        found = log.undo(asked.column, asked.at, asked.by or user())
        labels = [[rows.ids.find(name), label] for name, label in found.labels.items() if name in rows.ids]
        return {"version": found.version, "labels": labels, "at": found.at, "by": found.by, "key": rows.key}

    @app.post("/api/set")
    def set_(asked: SetRequest) -> Any:
        ids = _meant(rows, asked)
        there = {name: value for name, value in zip(ids, asked.after, strict=True) if name in rows.ids}
        before = dict(zip(ids, asked.before, strict=True))
        if asked.column != SET_ASIDE:  # of which the page knows all
            log.check(asked.column)
            before |= _values(rows, asked.column, list(there))
        elif not all(value is None or value is True for value in asked.after):
            raise NearfarError(f"the column {SET_ASIDE} holds true, or nothing.")
        rows.store.update(asked.column, there)
        return {"version": rows.look(), "before": [before[name] for name in ids]}

    @app.post("/api/train")
    def train(asked: TrainRequest, job: Key = "") -> Response:
        made = partial(findings.classifier, asked.column, asked.accepted)
        listing, facts = findings.asked(f"classifier {asked.column} {asked.accepted}", made, job)
        return listed(rows, listing, facts=facts)


def _meant(rows: NumberedStore, asked: LabelRequest | SetRequest) -> list[str]:
    """Name the images of a change; by its own names, if it waited until the numbers were void."""
    if not len(asked.rows) == len(asked.before) == len(asked.after):
        raise NearfarError("the request is malformed.")
    try:
        return rows.named(asked.rows, asked.key)
    except StaleRows:
        if asked.ids is None or len(asked.ids) != len(asked.rows):
            raise
        return asked.ids


def _values(rows: NumberedStore, column: str, ids: list[str]) -> dict[str, Any]:
    """Read what a column holds of some images now, which the page may not know and has to bring back."""
    if column not in rows.store.columns:
        return dict.fromkeys(ids)
    return dict(zip(ids, rows.store.rows([column], ids=ids)[column].to_pylist(), strict=True))


def user() -> str:
    """Name the user who runs the server."""
    try:
        return getpass.getuser()[:60]
    except (OSError, KeyError, ImportError):
        return ""
