"""Writes labels with their origin, and takes them back: the log of changes is kept in the store itself.

Next to a column `label` stand `label_origin` (by hand, or accepted from a classifier), `label_by` (who),
`label_at` (when, which also names the change) and `label_before` (what was there earlier, as JSON). The order
in which classes were first seen is noted with the column, so that each keeps its key and its colour.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..core.errors import NearfarError
from ..core.shapes import loads
from ..queries.label_origin import HAND, origin_column
from ..stores.base import FIXED, Value
from ..stores.schema import check_column
from .row_numbers import OTHER, Column, NumberedStore

CLASSES = 10_000  # of labels, which are told apart
REMEMBERED = 10  # earlier states of a label that are kept
MARKS = ("origin", "by", "at")


@dataclass(frozen=True)
class LabelChange:
    """What a change did.

    Attributes:
        version: of the store, that who made the change has seen now: the new one, unless others wrote too.
        at: when it was, which names it.
        replaced: labels by id that were not as who made the change has seen them, and are replaced now.
    """

    version: int
    at: str
    replaced: Mapping[str, Value]


@dataclass(frozen=True)
class Undone:
    """A change that was taken back: the labels by id as they are again, when it was made, and by whom."""

    version: int
    labels: Mapping[str, Value]
    at: str = ""
    by: str = ""


class LabelLog:
    """The labels of a numbered store; safe in threads."""

    def __init__(self, rows: NumberedStore) -> None:
        """Write to a store.

        Args:
            rows: the store.
        """
        self.rows, self.store = rows, rows.store
        self._order: dict[str, list[str]] = {}  # where it cannot be noted

    def check(self, column: str) -> None:
        """Refuse a column that labels cannot be written to.

        Args:
            column: its name; it may be missing.

        Raises:
            NearfarError: it holds something else, or no column can have that name.
        """
        columns = self.store.columns
        kind = columns.get(column)
        if (column in FIXED and column != "label") or kind not in (None, "text"):
            raise NearfarError(
                f"the column {column} does not hold text labels; name a text column or a new one."
            )
        for name in (column, *(f"{column}_{mark}" for mark in (*MARKS, "before"))):
            if name not in columns:
                check_column(name, columns)

    def classes(self, column: str) -> list[str]:
        """Name the classes of a column in the order of their keys: as they were first seen.

        Args:
            column: a column with labels; it may be missing.
        """
        found = self.rows.column(column, CLASSES).names if column in self.store.columns else ()
        return self._ordered(column, found)

    def _ordered(self, column: str, names: Sequence[str]) -> list[str]:
        """Put classes in their lasting order, with those that were known before."""
        with self.rows.lock:
            noted = self.store.notes(column).get("classes")
            known = [str(name) for name in noted] if isinstance(noted, list) else []
            known = known or self._order.get(column, [])
            before, there = {*known}, {*names}
            order = [*known, *(name for name in names if name not in before)]
            if (spare := len(order) - 2 * CLASSES) > 0:  # the first that no image has give way
                gone = {*[name for name in order if name not in there][:spare]}
                order = [name for name in order if name not in gone]
            if order != known:
                self._order[column] = order
                with suppress(NearfarError):  # a store may be for reading only
                    known_at = self.rows.look()
                    self.store.set_notes(column, {**self.store.notes(column), "classes": order})
                    self.rows.wrote(known_at, known_at)  # so that not all ids are read again
            return order

    def column(self, column: str) -> Column:
        """Read the labels of all rows, with the classes in their lasting order.

        Args:
            column: a column of the store.

        Raises:
            NearfarError: there is no such column.
            StaleRows: rows came or went while it was read.
        """
        found = self.rows.column(column, CLASSES)
        order = self._ordered(column, found.names)
        at = {name: number for number, name in enumerate(order)}
        place = np.array([*(at[name] for name in found.names), OTHER, -1], np.int32)  # from the end: -2, -1
        return Column(found.kind, place[found.values], tuple(order))

    def write(
        self,
        column: str,
        ids: Sequence[str],
        before: Sequence[Value],
        after: Sequence[Value],
        version: int,
        *,
        origin: str = HAND,
        by: str = "",
    ) -> LabelChange:
        """Set labels; if another user was quicker, the last label is kept, and the caller is told.

        A change that is sent again, since its answer was lost, is not made again: one undo takes it back.

        Args:
            column: to write to; it is made where there is none.
            ids: the images.
            before: what their labels were where they are being changed.
            after: what they become.
            version: the store's that the writer has seen.
            origin: where the labels come from, one of `ORIGINS`.
            by: who sets them.

        Raises:
            NearfarError: the name or a value does not fit the store.
        """
        self.check(column)
        with self.rows.lock:
            known = self.rows.look()
            there = self._states(column, ids)
            if (done := _done_at(there, before, after, origin, by)) is not None:
                return LabelChange(version, done, {})
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            marks: list[dict[str, Any]] = [
                {"label": label, "origin": origin if label is not None else None, "by": by, "at": at}
                for label in after
            ]
            earlier = [[*old, {key: now[key] for key in ("label", *MARKS)}] for now, old in there]
            self._put(column, ids, marks, earlier)
            self._ordered(column, sorted({label for label in after if isinstance(label, str)}))
            others = {
                name: now["label"]
                for name, was, (now, _) in zip(ids, before, there, strict=True)
                if (was or None) != now["label"]
            }
            return LabelChange(self.rows.wrote(known, version), at, others)

    def undo(self, column: str, at: str | None, by: str) -> Undone:
        """Take a change back, as far as no one has labelled its images again.

        Args:
            column: with the labels.
            at: which change; None for the last one that `by` made.
            by: who made it.

        Returns:
            The labels as they were before; none where there is no such change.
        """
        names = {"at": f"{column}_at", "by": f"{column}_by"}
        with self.rows.lock:
            known = self.rows.look()
            if not {*names.values()} <= {*self.store.columns}:
                return Undone(known, {})
            if at is None:
                table = self.store.rows([names["at"], names["by"]], f"{names['at']} is not null")
                times = [one for one, who in zip(*(table[c].to_pylist() for c in names.values()), strict=True)
                         if who == by]  # fmt: skip
                at = max(times, default=None)
            ids = self.store.ids(f"{names['at']} = '{_quoted(at)}'") if at else []
            if not ids:
                return Undone(known, {})
            there = self._states(column, ids)
            last = [(old or [{}])[-1] for _, old in there]
            self._put(column, ids, last, [old[:-1] for _, old in there])
            labels = {name: was.get("label") for name, was in zip(ids, last, strict=True)}
            return Undone(self.rows.wrote(known, known), labels, str(at), str(there[0][0]["by"] or ""))

    def _states(self, column: str, ids: Sequence[str]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Read what is known of labels now, and their earlier states."""
        names = {"label": column, "origin": origin_column(column)}
        names |= {key: f"{column}_{key}" for key in ("by", "at", "before")}
        there = {key: name for key, name in names.items() if name in self.store.columns}
        table = self.store.rows(list(there.values()), ids=ids) if there else None
        found = {key: table[name].to_pylist() if table is not None else [] for key, name in there.items()}
        made = []
        for at in range(len(ids)):
            now = {key: found[key][at] if key in found else None for key in names}
            made.append((now, _earlier(now.pop("before"))))
        return made

    def _put(
        self,
        column: str,
        ids: Sequence[str],
        states: Sequence[Mapping[str, Any]],
        earlier: Sequence[Sequence[Mapping[str, Any]]],
    ) -> None:
        values = {column: [state.get("label") for state in states]}
        values |= {f"{column}_{mark}": [state.get(mark) or None for state in states] for mark in MARKS}
        values[f"{column}_before"] = [
            json.dumps(old[-REMEMBERED:], ensure_ascii=False) if old else None for old in earlier
        ]
        self.store.update_columns({name: dict(zip(ids, some, strict=True)) for name, some in values.items()})


def _done_at(
    there: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]],
    before: Sequence[Value],
    after: Sequence[Value],
    origin: str,
    by: str,
) -> str | None:
    """Tell when just this change was made, if it is the last that was made to every one of its images."""
    times = {now["at"] for now, _ in there}
    made = all(
        (now["label"], now["by"], now["origin"]) == (label, by, origin if label is not None else None)
        and bool(old)
        and (old[-1].get("label") or None) == (was or None)
        for (now, old), was, label in zip(there, before, after, strict=True)
    )
    at = times.pop() if made and len(times) == 1 else None
    return at if isinstance(at, str) else None


def _earlier(text: str | None) -> list[dict[str, Any]]:
    """Read earlier states; what others wrote into the column counts as none."""
    with suppress(ValueError):
        found = loads(text or "[]")
        if isinstance(found, list) and all(isinstance(state, dict) for state in found):
            return found
    return []


def _quoted(text: str) -> str:
    return text.replace("'", "''")
