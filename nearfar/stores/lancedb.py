"""Keeps a vector store in a folder or an object store, by LanceDB: durable, versioned, many writers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..core.atomic import says_full
from ..core.cache_root import cache_root
from ..core.entries import entries
from ..core.errors import NearfarError
from ..core.locks import hold
from ..core.plain_path import from_home, plain_path
from ..core.redact import redact
from ..core.shapes import loads
from . import arrow_rows, conditions, lance_sql, schema
from .base import StoreInfo, Value, Vectors, check_room
from .index import Index
from .known_ids import KnownIds
from .lance_commits import GONE, READS, check_writable, commit, put_together, reason, tidy, unreadable

TABLE = "images"
_BATCH = 16_384  # rows read at a time, where all are
_NAMED = 2000  # ids that a filter names; of more, all are read and picked from
_KEPT = timedelta(hours=1)  # how long old versions stay for those who are reading them
_PRIMARY = {"lance-schema:unenforced-primary-key:position": "1"}  # two inserts of one id then conflict
_WRITING = "writing.lock"
_NOTES = b"nearfar"  # the key of a column's metadata that holds its notes
T = TypeVar("T")


class LanceStore:
    """See `base.VectorStore`. A write is one commit or two; each row is there whole, or not at all."""

    def __init__(self, address: str, info: StoreInfo | None = None) -> None:
        """Open the store, or make it.

        Args:
            address: a folder, or an object store's address, passed on as it is.
            info: whose vectors are to go in; None opens a store that exists.

        Raises:
            NearfarError: there is none, it is another encoder's, or LanceDB is missing.
        """
        try:
            import lancedb
        except ModuleNotFoundError:
            raise NearfarError("a vector store needs LanceDB; type: pip install 'nearfar[store]'") from None
        self.address = redact(address)
        self.folder = None if "://" in address else from_home(address)
        if self.folder is not None:
            self._check_folder(self.folder, info)
        try:
            where = address if self.folder is None else plain_path(self.folder)
            self._db = lancedb.connect(where, read_consistency_interval=timedelta(0))
            self._table = self._open(info)
        except (OSError, RuntimeError, ValueError) as error:
            if self.folder is not None and says_full(error, self.folder):
                raise NearfarError(
                    f"the disk of {self.address} is too full; free some space and run the same command again."
                ) from None
            why = reason(error, address)
            raise NearfarError(f"{self.address} cannot be opened as a vector store: {why}.") from None
        said = (self._table.schema.metadata or {}).get(b"nearfar")
        if said is None:
            raise NearfarError(f"{self.address} is another program's LanceDB table; name another store.")
        self.info = StoreInfo.read(said, self.address)
        if info is not None:
            self.info.check_compatible(info, self.address)
        digest = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
        beside = self.folder is not None and os.access(self.folder, os.W_OK)
        place = Path(self.folder or "", "search") if beside else cache_root() / "stores" / digest
        self._index = Index(self, place, self.info.dim)
        self._known = KnownIds()

    def _check_folder(self, folder: Path, info: StoreInfo | None) -> None:
        """Refuse a folder that is something else, before LanceDB writes into it."""
        if (folder / f"{TABLE}.lance").is_dir():
            return
        if folder.exists() and (not folder.is_dir() or entries(folder)):
            raise NearfarError(f"{self.address} is not a vector store; name another, such as photos.nf")
        if info is None:
            raise NearfarError(
                f"there is no vector store {self.address}; make one: "
                f"nearfar embed RUN DATA --store {shlex.quote(self.address)}"
            )

    def _open(self, info: StoreInfo | None) -> Any:
        """Open the table; make it, unless another process was quicker."""
        for _ in range(2):
            try:
                return self._db.open_table(TABLE)
            except ValueError:
                if info is None:
                    raise NearfarError(
                        f"there is no vector store at {self.address}; make one: "
                        f"nearfar embed RUN DATA --store {shlex.quote(self.address)}"
                    ) from None
            with contextlib.suppress(ValueError):
                return self._db.create_table(TABLE, schema=self._schema(info))
        raise NearfarError(f"{self.address} cannot be created; choose another place with --store.")

    @staticmethod
    def _schema(info: StoreInfo) -> Any:
        import pyarrow as pa

        fixed = info.fixed
        fields = [pa.field(name, schema.arrow_type(name, kind, fixed)) for name, kind in fixed.items()]
        fields[0] = pa.field("id", pa.string(), nullable=False, metadata=_PRIMARY)
        fields += [
            pa.field("thumbnail", pa.binary()),
            pa.field("vector", pa.list_(pa.float32(), info.dim)),
            pa.field(schema.KEY, pa.int64()),
        ]
        return pa.schema(fields, metadata={"nearfar": json.dumps(info.to_json())})

    @property
    def version(self) -> int:
        """A number that rises with every change."""
        return self._looked(lambda: int(self._table.version))

    @property
    def columns(self) -> dict[str, str]:
        """Every column's kind by its name."""
        layout = self._looked(lambda: self._table.schema)
        kinds = {field.name: schema.kind_of(field.type) for field in layout}
        return {name: kind for name, kind in kinds.items() if kind and name not in schema.HIDDEN}

    def __len__(self) -> int:
        """Count the rows."""
        return self._looked(lambda: int(self._table.count_rows()))

    def _looked(self, work: Callable[[], T]) -> T:
        """Look at the newest state, if there is one still."""
        try:
            return work()
        except (OSError, RuntimeError, ValueError) as error:
            raise self._unreadable(error) from None

    def ids(self, where: str | None = None) -> list[str]:
        """Name the rows, sorted."""
        return list(self._read(["id"], where, None)["id"].to_pylist())

    def vectors(
        self, where: str | None = None, ids: Sequence[str] | None = None
    ) -> tuple[list[str], Vectors]:
        """Read vectors."""
        if ids is None:
            check_room(self, where)
        table = self._read(["id", "vector"], where, ids)
        return table["id"].to_pylist(), arrow_rows.matrix(table["vector"], self.info.dim).copy()

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
        found = self._read(["id", *(name for name in names if name != "id")], where, ids).select(names)
        fixed = self.info.fixed
        return found.cast(pa.schema([(name, schema.arrow_type(name, known[name], fixed)) for name in names]))

    def thumbnails(self, ids: Sequence[str]) -> list[bytes]:
        """Read thumbnails, as JPEG files."""
        return [data or b"" for data in self._read(["id", "thumbnail"], None, ids)["thumbnail"].to_pylist()]

    def keys(self) -> tuple[Any, Any]:
        """Give every id, sorted, as an Arrow array, and the digest of its vector."""
        table = self._read(["id", schema.KEY], None, None)
        return table["id"].combine_chunks(), table[schema.KEY].to_numpy()

    def pieces(self, ids: Any = None) -> tuple[int, int, Iterator[Any]]:
        """Give one state of the store, or some ids of it: its version, how many rows, and these in pieces."""
        import pyarrow as pa

        columns = ["id", schema.KEY, "vector"]
        if ids is not None:
            table = self._read(columns, None, ids.to_pylist(), strict=False)
            return self.version, len(table), iter([self._piece(table)])
        still = self._db.open_table(TABLE)
        version = still.version
        still.checkout(version)

        def made() -> Iterator[Any]:
            try:
                for batch in still.search().select(columns).to_batches(_BATCH):
                    yield self._piece(pa.Table.from_batches([batch]))
            except (OSError, RuntimeError, ValueError) as error:
                raise self._unreadable(error) from None

        return version, still.count_rows(), made()

    def _unreadable(self, error: Exception) -> Exception:
        """Say that the store, or a part of it, cannot be read."""
        return unreadable(error, self.folder and self.folder / f"{TABLE}.lance", self.address)

    def _piece(self, table: Any) -> Any:
        ids, keys = table["id"].combine_chunks(), table[schema.KEY].to_numpy()
        return ids, keys, arrow_rows.matrix(table["vector"], self.info.dim)

    def _filter(self, where: str) -> str:
        columns = self.columns

        def name(column: str) -> str:
            # LanceDB compares whole numbers with whole numbers only.
            return f"cast(`{column}` as double)" if columns[column] == "number" else f"`{column}`"

        return conditions.to_sql(conditions.parse(where, columns), name, lance_sql.literal)

    def _read(
        self, columns: list[str], where: str | None, ids: Sequence[str] | None, strict: bool = True
    ) -> Any:
        """Read some rows of one version, in order."""
        filters = [self._filter(where)] if where is not None else []
        if ids is not None and len(ids) <= _NAMED:
            filters.append(lance_sql.among(ids))
        for left in reversed(range(READS)):
            try:
                query = self._table.search().select(columns)
                table = (query.where(" and ".join(filters)) if filters else query).to_arrow()
                break
            except UnicodeEncodeError:  # an id that is no text, which the command line says
                raise
            except (OSError, RuntimeError, ValueError) as error:
                if not left or GONE not in str(error).lower():
                    raise self._unreadable(error) from None
                with contextlib.suppress(OSError, RuntimeError, ValueError):  # which the next try tells
                    self._table.checkout_latest()
        return arrow_rows.ordered(table.replace_schema_metadata(None), ids, strict=strict and where is None)

    def upsert(self, table: Any) -> None:
        """Insert rows, or replace those whose ids are there already."""
        new = arrow_rows.incoming(table, self.info, self.columns)
        if not len(new):
            return
        known = self.columns
        self._add(
            {
                name: kind
                for name in new.column_names
                if name not in known
                and name not in schema.HIDDEN
                and (kind := schema.kind_of(new.schema.field(name).type))
            }
        )
        with contextlib.ExitStack() as stack:
            lock = self.folder and hold(self.folder / _WRITING, wait=True, needed=False)
            if lock and stack.enter_context(lock):
                new = self._commit(lambda: self._append(new))
            if len(new):
                self._merge_all(new)

    def _append(self, table: Any) -> Any:
        """Add the rows whose ids the table has never had, without a look at what is there; return the rest.

        LanceDB lets two appends of one id pass, so that this needs all other writers to wait.
        """
        import pyarrow as pa

        may_be_there = self._known.among(self._table, table["id"])
        fresh = table.filter(pa.array(~may_be_there))
        if len(fresh):
            self._known.added(fresh["id"], self._table.add(self._filled(fresh)).version)
        return table.filter(pa.array(may_be_there))

    def _merge_all(self, new: Any) -> None:
        """Insert rows or replace them, each compared with all that are there."""
        full = self._filled(new)
        if full.num_columns == new.num_columns:
            self._commit(lambda: self._merge(full, True, True))
            return
        # Rows that are there keep what the table lacks: new ones are inserted, then the others updated.
        inserted = self._commit(lambda: self._merge(full, False, True)).num_inserted_rows
        if inserted < len(new):
            self._commit(lambda: self._merge(self._typed(new), True, False))

    def _typed(self, table: Any) -> Any:
        """Give columns the table's own types, in its order."""
        import pyarrow as pa

        fields = [field for field in self._table.schema if field.name in table.column_names]
        return table.select([field.name for field in fields]).cast(pa.schema(fields))

    def _filled(self, table: Any) -> Any:
        """Add every column of the store that a table lacks, empty."""
        import pyarrow as pa

        for field in self._table.schema:
            if field.name not in table.column_names:
                table = table.append_column(field.name, pa.nulls(len(table), field.type))
        return self._typed(table)

    def _merge(self, table: Any, update: bool, insert: bool) -> Any:
        merge = self._table.merge_insert("id")
        merge = merge.when_matched_update_all() if update else merge
        return (merge.when_not_matched_insert_all() if insert else merge).execute(table)

    def update(self, column: str, values: Mapping[str, Value]) -> None:
        """Set one column of some rows; a column that is new is added."""
        self.update_columns({column: values})

    def update_columns(self, values: Mapping[str, Mapping[str, Value]]) -> None:
        """Set several columns of the same rows at once."""
        import pyarrow as pa

        columns, fixed = self.columns, self.info.fixed
        kinds, values = schema.check_updates(values, columns, fixed), schema.without_nan(values)
        self._add({name: kind for name, kind in kinds.items() if name not in columns})
        ids = list(next(iter(values.values()), {}))
        if not ids:
            return
        if (few := lance_sql.assignments(ids, values, kinds)) is not None:
            self._commit(lambda: self._table.update(where=lance_sql.among(ids), values_sql=few))
        else:
            made = {"id": ids} | {
                name: pa.array([some[one] for one in ids], schema.arrow_type(name, kinds[name], fixed))
                for name, some in values.items()
            }
            self._commit(lambda: self._merge(self._typed(pa.table(made)), True, False))
        tidy(self._table, self.folder, self.address)

    def check_writable(self) -> None:
        """Refuse a store that cannot be written, before the work that is to fill a column."""
        check_writable(self.folder and self.folder / f"{TABLE}.lance", self.address)

    def notes(self, column: str) -> dict[str, Any]:
        """Read what was noted about a column."""
        if column not in self.columns:
            return {}
        said = (self._table.schema.field(column).metadata or {}).get(_NOTES)
        with contextlib.suppress(ValueError):
            found = loads(said) if said else {}
            return found if isinstance(found, dict) else {}
        return {}

    def set_notes(self, column: str, notes: Mapping[str, Any]) -> None:
        """Note something about a column."""
        schema.wanted([column], self.columns)
        said = {"path": column, "metadata": {_NOTES.decode(): json.dumps(dict(notes))}}
        self._commit(lambda: self._table.update_field_metadata(said))

    def _add(self, columns: Mapping[str, str]) -> None:
        """Add columns that are not there."""
        import pyarrow as pa

        def add() -> None:
            missing = [name for name in columns if name not in self.columns]
            if missing:
                types = {name: schema.arrow_type(name, columns[name], self.info.fixed) for name in missing}
                self._table.add_columns([pa.field(name, type_) for name, type_ in types.items()])

        self._commit(add)

    def drop(self, columns: Sequence[str]) -> None:
        """Remove columns and all that they hold."""
        schema.check_dropped(columns, self.columns, self.info.fixed)
        if columns:
            self._commit(lambda: self._table.drop_columns(list(dict.fromkeys(columns))))

    def delete(self, ids: Sequence[str] | None = None, where: str | None = None) -> int:
        """Delete the rows that are among `ids` and meet the condition."""
        schema.check_deleted(ids, where)
        filters = [self._filter(where)] if where is not None else []
        lists: list[Sequence[str] | None] = [None]
        if ids is not None:
            lists = [ids[low : low + _NAMED] for low in range(0, len(ids), _NAMED)]
        count = 0
        for some in lists:
            named = [lance_sql.among(some)] if some is not None else []
            text = " and ".join([*filters, *named])
            count += int(self._commit(partial(self._table.delete, text)).num_deleted_rows)
        return count

    def compact(self, spare: bool = False) -> None:
        """Put pieces together, and reclaim the space of deleted rows and old versions."""
        put_together(self._table, self.folder, self.address, _KEPT if spare else None)

    def _commit(self, work: Callable[[], T]) -> T:
        """Do work that commits, as `commit` does."""
        return commit(work, self._table, self.folder, self.address)

    def nearest(
        self, queries: Vectors, k: int, where: str | None = None, exact: bool | None = None
    ) -> tuple[list[list[str]], Vectors]:
        """Find the rows most similar to each query by cosine, most similar first."""
        return self._index.nearest(queries, k, where, exact)
