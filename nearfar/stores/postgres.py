"""Keeps a vector store on a PostgreSQL server with pgvector, for those who outgrow one machine.

A store is the table nearfar_NAME, and a row of nearfar_stores with its info and version. Every value is
bound, and every name of a column is checked and quoted; no text of a user becomes part of a statement.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..core import progress, rng
from ..core.errors import NearfarError
from ..core.shapes import loads
from ..core.text import counted
from . import arrow_rows, conditions, schema
from .base import EXACT, StoreInfo, Value, Vectors, check_room
from .index import DECIMALS, check_queries
from .pg_connection import Server, parse

_TYPES = {"text": "text", "number": "double precision", "flag": "boolean"}
_KINDS = {"text": "text", "bigint": "number", "double precision": "number", "boolean": "flag"}
_MOST = 2000  # numbers in a vector that pgvector indexes
_LINKS, _CARE, _EFFORT = 32, 80, 200  # HNSW's, while it is built and searched
_SAMPLE, _ASKED = 64, 10  # rows on which an index is measured, and their neighbours


def _type(column: str, kind: str, fixed: Container[str]) -> str:
    """Say of which type a column's values are; `fixed` are those that the store has from the start."""
    return "bigint" if kind == "number" and column in fixed else _TYPES[kind]


def _column(name: str, kind: str, fixed: Container[str]) -> str:
    """Say of which type a column is; text is ordered by its bytes, as elsewhere."""
    return _type(name, kind, fixed) + (' collate "C"' if kind == "text" else "")


class PostgresStore:
    """See `base.VectorStore`. Writers take turns: each first takes the store's row of nearfar_stores."""

    def __init__(self, address: str, info: StoreInfo | None = None) -> None:
        """Open the store, or make it.

        Args:
            address: as `server.parse` reads it.
            info: whose vectors are to go in; None opens a store that exists.

        Raises:
            NearfarError: there is none, it is another encoder's, or the server cannot be reached.
        """
        place = parse(address)
        self.address, self._name = place.shown, place.table
        self._table, self._graph = f'"nearfar_{place.table}"', f'"nearfar_{place.table}_vector"'
        self._server = Server(place)
        text = self._read_info()
        if text is None and info is None:
            raise NearfarError(
                f"there is no vector store at {self.address}; make one: "
                f"nearfar embed RUN DATA --store {shlex.quote(self.address)}"
            )
        if text is None and info is not None:
            self._make(info)
            text = self._read_info()
        self.info = StoreInfo.read(str(text), self.address)
        if info is not None:
            self.info.check_compatible(info, self.address)

    def _read_info(self) -> str | None:
        """Read the store's info, if there is one."""
        if not self._server.run("select to_regclass('nearfar_stores') is not null")[0][0]:
            return None
        found = self._server.run("select info from nearfar_stores where name = :name", name=self._name)
        return str(found[0][0]) if found else None

    def _make(self, info: StoreInfo) -> None:
        """Make the tables, unless another process was quicker."""
        columns = [f'"{name}" {_column(name, kind, info.fixed)}' for name, kind in info.fixed.items()]
        columns[0] += " primary key"
        with self._server.transaction() as connection:
            connection.run("select pg_advisory_xact_lock(hashtext('nearfar'))")
            connection.run("create extension if not exists vector")
            connection.run(
                "create table if not exists nearfar_stores "
                "(name text primary key, info text not null, version bigint not null)"
            )
            connection.run(
                f"create table if not exists {self._table} "
                f"({', '.join(columns)}, thumbnail bytea, vector vector({int(info.dim)}) not null)"
            )
            connection.run(
                "insert into nearfar_stores values (:name, :info, 1) on conflict do nothing",
                name=self._name,
                info=json.dumps(info.to_json()),
            )

    def _changing(self, connection: Any) -> None:
        """Wait for other writers, and count the change."""
        connection.run("update nearfar_stores set version = version + 1 where name = :name", name=self._name)

    @property
    def version(self) -> int:
        """A number that rises with every change."""
        found = self._server.run("select version from nearfar_stores where name = :name", name=self._name)
        return int(found[0][0])

    @property
    def columns(self) -> dict[str, str]:
        """Every column's kind by its name."""
        found = self._server.run(
            "select attname, format_type(atttypid, null) from pg_attribute "
            "where attrelid = to_regclass(:table) and attnum > 0 and not attisdropped order by attnum",
            table=self._table,
        )
        return {name: _KINDS[type_] for name, type_ in found if type_ in _KINDS}

    def __len__(self) -> int:
        """Count the rows."""
        return int(self._server.run(f"select count(*) from {self._table}")[0][0])

    def ids(self, where: str | None = None) -> list[str]:
        """Name the rows, sorted."""
        return [row[0] for row in self._read(['"id"'], where, None)]

    def vectors(
        self, where: str | None = None, ids: Sequence[str] | None = None
    ) -> tuple[list[str], Vectors]:
        """Read vectors."""
        if ids is None:
            check_room(self, where)
        found = self._ordered(self._read(['"id"', "vector_send(vector)"], where, ids), ids, where)
        # Two short numbers come first; numbers are in network order.
        flat = b"".join(row[1][4:] for row in found)
        return [row[0] for row in found], np.frombuffer(flat, ">f4").astype(np.float32).reshape(
            -1, self.info.dim
        )

    def rows(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> Any:
        """Read columns, as a `pyarrow.Table`."""
        import pyarrow as pa

        known = self.columns
        names = schema.wanted(columns, known)
        found = self._read(['"id"', *(f'"{name}"' for name in names)], where, ids)
        found = self._ordered(found, ids, where)
        made = [
            pa.array([row[at] for row in found], schema.arrow_type(name, known[name], self.info.fixed))
            for at, name in enumerate(names, 1)
        ]
        return pa.table(made, names=names)

    def thumbnails(self, ids: Sequence[str]) -> list[bytes]:
        """Read thumbnails, as JPEG files."""
        return [
            row[1] or b"" for row in self._ordered(self._read(['"id"', "thumbnail"], None, ids), ids, None)
        ]

    def _filter(self, where: str | None, ids: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
        """Write a condition, and bind its values."""
        values: dict[str, Any] = {}
        known = self.columns if where is not None else {}

        def name(column: str) -> str:
            # Whole numbers would be compared with whole numbers only.
            return f'cast("{column}" as double precision)' if known[column] == "number" else f'"{column}"'

        def bound(value: Any) -> str:
            values[f"v{len(values)}"] = value
            return f":v{len(values) - 1}"

        parts = [] if ids is None else [f"id = any(cast({bound(_texts(ids))} as text[]))"]
        if where is not None:
            parts.append(conditions.to_sql(conditions.parse(where, known), name, bound))
        return (f"where {' and '.join(parts)}" if parts else ""), values

    def _read(self, columns: list[str], where: str | None, ids: Sequence[str] | None) -> list[list[Any]]:
        text, values = self._filter(where, ids)
        listed = ", ".join(columns)
        return self._server.run(f"select {listed} from {self._table} {text} order by id", **values)

    @staticmethod
    def _ordered(found: list[list[Any]], ids: Sequence[str] | None, where: str | None) -> list[list[Any]]:
        """Put rows in the order of the ids asked for."""
        if ids is None:
            return found
        by_id = {row[0]: row for row in found}
        arrow_rows.check_there(ids, by_id if where is None else ids)
        return [by_id[name] for name in ids if name in by_id]

    def upsert(self, table: Any) -> None:
        """Insert rows, or replace those whose ids are there already."""
        known = self.columns
        new = arrow_rows.incoming(table, self.info, known).drop_columns([schema.KEY])
        kinds = {name: schema.kind_of(new.schema.field(name).type) for name in new.column_names}
        lists, given = [], {}
        for at, (name, kind) in enumerate(kinds.items()):
            type_ = _type(name, kind, self.info.fixed) if kind else "bytea" if name == "thumbnail" else "text"
            lists.append(f"cast(:c{at} as {type_}[])" + ("::vector[]" if name == "vector" else ""))
            values = new[name].to_pylist() if name != "vector" else _written(new[name], self.info.dim)
            given[f"c{at}"] = _texts(values) if type_ == "text" else values
        listed = ", ".join(f'"{name}"' for name in kinds)
        updates = ", ".join(f'"{name}" = excluded."{name}"' for name in kinds if name != "id")
        with self._server.transaction() as connection:
            self._changing(connection)
            self._add(connection, {name: kind for name, kind in kinds.items() if kind and name not in known})
            connection.run(
                f"insert into {self._table} ({listed}) select * from unnest({', '.join(lists)}) "
                f"on conflict (id) do update set {updates}",
                **given,
            )

    def _add(self, connection: Any, columns: Mapping[str, str]) -> None:
        """Add columns that are not there."""
        for name, kind in columns.items():
            type_ = _column(name, kind, self.info.fixed)
            connection.run(f'alter table {self._table} add column if not exists "{name}" {type_}')

    def update(self, column: str, values: Mapping[str, Value]) -> None:
        """Set one column of some rows; a column that is new is added."""
        self.update_columns({column: values})

    def update_columns(self, values: Mapping[str, Mapping[str, Value]]) -> None:
        """Set several columns of the same rows at once."""
        known = self.columns
        kinds, values = schema.check_updates(values, known, self.info.fixed), schema.without_nan(values)
        with self._server.transaction() as connection:
            self._changing(connection)
            self._add(connection, {name: kind for name, kind in kinds.items() if name not in known})
            for column, some in values.items():
                kind = kinds[column]
                connection.run(
                    f'update {self._table} t set "{column}" = n.value from unnest(cast(:ids as text[]), '
                    f"cast(:given as {_type(column, kind, self.info.fixed)}[])) n(id, value) "
                    "where t.id = n.id",
                    ids=_texts(some),
                    given=_texts(str(v) if v is not None else None for v in some.values())
                    if kind == "text"
                    else [float(v) if kind == "number" and v is not None else v for v in some.values()],
                )

    def check_writable(self) -> None:
        """Refuse nothing: the server says at the first write what a user may not do."""

    def notes(self, column: str) -> dict[str, Any]:
        """Read what was noted about a column."""
        found = self._server.run(
            "select col_description(attrelid, attnum) from pg_attribute "
            "where attrelid = to_regclass(:table) and attname = :column and not attisdropped",
            table=self._table,
            column=column,
        )
        with suppress(ValueError):
            said = loads(found[0][0]) if found and found[0][0] else {}
            return said if isinstance(said, dict) else {}
        return {}  # a comment of the owner's own

    def set_notes(self, column: str, notes: Mapping[str, Any]) -> None:
        """Note something about a column."""
        schema.wanted([column], self.columns)
        text = self._server.literal(json.dumps(dict(notes)))
        with self._server.transaction() as connection:
            self._changing(connection)
            connection.run(f'comment on column {self._table}."{column}" is {text}')

    def drop(self, columns: Sequence[str]) -> None:
        """Remove columns and all that they hold."""
        schema.check_dropped(columns, self.columns, self.info.fixed)
        with self._server.transaction() as connection:
            self._changing(connection)
            for name in dict.fromkeys(columns):
                connection.run(f'alter table {self._table} drop column if exists "{name}"')

    def delete(self, ids: Sequence[str] | None = None, where: str | None = None) -> int:
        """Delete the rows that are among `ids` and meet the condition."""
        schema.check_deleted(ids, where)
        text, values = self._filter(where, ids)
        with self._server.transaction() as connection:
            self._changing(connection)
            connection.run(f"delete from {self._table} {text}", **values)
            return int(connection.row_count)

    def compact(self, spare: bool = False) -> None:
        """Reclaim the space of deleted rows."""
        self._server.vacuum(self._table)

    def nearest(
        self, queries: Vectors, k: int, where: str | None = None, exact: bool | None = None
    ) -> tuple[list[list[str]], Vectors]:
        """Find the rows most similar to each query by cosine, most similar first."""
        queries = check_queries(queries, k, self.info.dim)
        text, values = self._filter(where, None)
        matching = self._server.run(f"select count(*) from {self._table} {text}", **values)[0][0]
        k = min(k, int(matching))
        if exact is None:
            exact = matching <= EXACT
        if not exact and self.info.dim <= _MOST:
            self._index()
        with self._server.transaction() as connection:
            if exact:
                connection.run("set local enable_indexscan = off")
            else:
                connection.run("set local enable_seqscan = off")
                connection.run("set local hnsw.iterative_scan = strict_order")
                connection.run(f"set local hnsw.ef_search = {min(1000, max(_EFFORT, k))}")
            found = [self._one(connection, query, k, text, values, bool(exact)) for query in queries]
        cosines = np.array([[row[1] for row in part] for part in found], np.float32).reshape(len(found), -1)
        return [[row[0] for row in part] for part in found], cosines

    def _one(
        self, connection: Any, query: Vectors, k: int, text: str, values: Mapping[str, Any], exact: bool
    ) -> list[tuple[str, float]]:
        """Find the nearest rows of one query."""
        # A vector of zeros has no direction; its cosine counts as 0. An index knows none, and no other order.
        far = "vector <=> cast(:query as vector)"
        order = f"coalesce(nullif({far}, 'NaN'), 1), id" if exact else far
        found = connection.run(
            f"select id, {far} from {self._table} {text} order by {order} limit :k",
            query=_text(query),
            k=k,
            **values,
        )
        cosines = [(name, round(1 - far, DECIMALS) if far == far else 0.0) for name, far in found]
        return sorted(cosines, key=lambda row: (-row[1], row[0]))

    def _index(self) -> None:
        """Build the server's index, unless it is there, and say how much of the nearest it finds."""
        if self._server.run("select to_regclass(:graph) is not null", graph=self._graph)[0][0]:
            return
        progress.say(f"building a search index over {counted(len(self), 'vector')} on the server, once.")
        self._server.run(
            f"create index if not exists {self._graph} on {self._table} using hnsw "
            f"(vector vector_cosine_ops) with (m = {_LINKS}, ef_construction = {_CARE})"
        )
        ids = self.ids()
        sample = sorted(rng.permutation(rng.fold(0, "recall"), len(ids))[:_SAMPLE].tolist())
        _, queries = self.vectors(ids=[ids[at] for at in sample])
        truth, found = (self.nearest(queries, _ASKED + 1, exact=exact)[0] for exact in (True, False))
        hits = [len({*t} & {*f} - {ids[at]}) for t, f, at in zip(truth, found, sample, strict=True)]
        recall = sum(hits) / max(1, sum(len({*t} - {ids[at]}) for t, at in zip(truth, sample, strict=True)))
        progress.say(f"the index finds {recall:.1%} of the {_ASKED} nearest rows of a sample.")


def _texts(values: Iterable[str | None]) -> str:
    """Write an array of texts; pg8000 leaves a text such as "null" without quotes, which then is none."""
    escaped = str.maketrans({"\\": r"\\", '"': r"\""})
    written = ("null" if value is None else f'"{value.translate(escaped)}"' for value in values)
    return f"{{{','.join(written)}}}"


def _text(vector: Vectors) -> str:
    """Write a vector as pgvector reads it; float32 comes back the same."""
    return f"[{','.join(map(str, vector))}]"


def _written(column: Any, dim: int) -> list[str]:
    return [_text(row) for row in arrow_rows.matrix(column, dim)]
