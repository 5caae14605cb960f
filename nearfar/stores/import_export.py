"""Moves vectors between a store and files that others read: Parquet, .npz and CSV, a chunk at a time.

Whose vectors they are goes along as JSON: in a Parquet file's metadata under "nearfar", in an .npz as the
array `provenance`, and next to a CSV in a .json. A Parquet file is exact in all; in the others an empty text
is none, and there are no thumbnails. Files of `nearfar embed --out` can be imported too.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..core.arrays import ERRORS, open_arrays
from ..core.atomic import atomic_write, check_place
from ..core.errors import NearfarError
from ..core.memory import available
from ..core.plain_path import plain_path
from ..core.progress import say
from ..core.shapes import loads
from ..core.text import counted, spreadsheet_cell
from ..data.csv_files import read_rows
from ..data.modalities import IMAGES
from . import arrow_rows, schema
from .base import THUMBNAIL, StoreInfo, Value, Vectors, VectorStore
from .columns import values_of
from .open import open_store

SUFFIXES = (".parquet", ".npz", ".csv")
CHUNK = 2000  # rows read or written at a time
_TAKEN = ("ids", "vectors", "provenance", "labels")  # arrays of an .npz that are no columns of these names
_COLUMN = "column:"  # before the name of a column that is called like one of these
_LEFT = "columns that are left out"


def _suffix(path: Path, flag: str) -> str:
    """Say which format a file's name asks for, or refuse it."""
    if path.suffix.lower() not in SUFFIXES:
        raise NearfarError(f"{flag} {path} does not end in {', '.join(SUFFIXES)}; name such a file.")
    if path.is_dir():
        raise NearfarError(f"{flag} {path} is a folder; name a file in it.")
    if flag == "--export":
        check_place(path)
    return path.suffix.lower()


def export(
    store: VectorStore, path: str | Path, ids: Sequence[str] | None = None, vectors: bool = True
) -> int:
    """Write a store's rows to a file, sorted by id; an old file is replaced in one move.

    Args:
        store: the rows.
        path: a .parquet, .npz or .csv file.
        ids: the rows wanted, in this order; default all.
        vectors: whether a .csv has the vectors; the others always have them.

    Returns:
        How many rows were written.

    Raises:
        NearfarError: the name is wrong, or the place cannot be written.
    """
    file = Path(path)
    suffix = _suffix(file, "--export")
    facts = json.dumps({**store.info.to_json(), "columns": store.columns}, ensure_ascii=False)
    ids = store.ids() if ids is None else ids
    if suffix == ".csv":
        _to_csv(store, ids, file, facts if vectors else "")
    else:
        {".parquet": _to_parquet, ".npz": _to_npz}[suffix](store, ids, file, facts)
    return len(ids)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[low : low + CHUNK] for low in range(0, len(ids), CHUNK))


def _to_parquet(store: VectorStore, ids: Sequence[str], path: Path, facts: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds, fixed = store.columns, store.info.fixed
    fields = [pa.field(name, schema.arrow_type(name, kind, fixed)) for name, kind in kinds.items()]
    fields += [pa.field("thumbnail", pa.binary()), pa.field("vector", pa.list_(pa.float32(), store.info.dim))]
    layout = pa.schema(fields, metadata={"nearfar": facts})
    with (
        atomic_write(path, folders=True) as file,
        pq.ParquetWriter(file, layout, compression="zstd") as writer,
    ):
        for some in _parts(ids):
            table = store.rows(ids=some)
            table = table.append_column("thumbnail", pa.array(store.thumbnails(some), pa.binary()))
            table = table.append_column("vector", arrow_rows.fixed(store.vectors(ids=some)[1]))
            writer.write_table(table.select(layout.names).cast(layout))


def _words(values: Sequence[Value]) -> list[str]:
    """Write values as words, one that is missing as none."""
    return ["" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in values]


def _to_npz(store: VectorStore, ids: Sequence[str], path: Path, facts: str) -> None:
    table = store.rows(ids=ids)
    arrays = {"ids": np.array(_words(table["id"].to_pylist()), np.str_)}
    for name in table.column_names:
        if name != "id":
            called = f"{_COLUMN}{name}" if name in _TAKEN else name
            arrays[called] = _array_of(name, _words(table[name].to_pylist()))
    arrays["provenance"] = np.array(facts)
    with atomic_write(path, folders=True) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # One fixed date: the same rows must give the same bytes.
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open(zipfile.ZipInfo("vectors.npy"), "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), store.info.dim)}
            np.lib.format.write_array_header_1_0(member, header)
            for some in _parts(ids):
                member.write(store.vectors(ids=some)[1].tobytes())


def _array_of(name: str, words: list[str]) -> Any:
    """Lay words in an array, in which each takes as much room as the longest."""
    longest = max(map(len, words), default=0)
    if (size := 4 * longest * len(words)) > available():
        raise NearfarError(
            f"the column {name} takes {size / 1e9:,.1f} GB as an array, since one of its texts has "
            f"{longest:,} characters; export to a .parquet file."
        )
    return np.array(words, np.str_)


def _to_csv(store: VectorStore, ids: Sequence[str], path: Path, facts: str) -> None:
    """Write a table; with `facts` also the vectors, and next to it whose they are."""
    names, dim = list(store.columns), store.info.dim if facts else 0
    if facts:
        _refuse_to_replace(path.with_suffix(".json"))
        with atomic_write(path.with_suffix(".json"), folders=True) as file:
            file.write(facts.encode() + b"\n")
    with atomic_write(path, folders=True) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text)
        writer.writerow([*names, *(f"v{at}" for at in range(dim))])
        for some in _parts(ids):
            table = store.rows(ids=some)
            columns = [[*map(spreadsheet_cell, _words(table[name].to_pylist()))] for name in names]
            vectors = store.vectors(ids=some)[1] if facts else np.empty((len(some), 0), np.float32)
            writer.writerows([*row, *map(str, v)] for *row, v in zip(*columns, vectors, strict=True))
        text.flush()
        text.detach()


def _refuse_to_replace(card: Path) -> None:
    """Refuse to write whose vectors a CSV holds over a file that says something else."""
    if card.exists() and "encoder" not in _facts(card.read_bytes()):
        raise NearfarError(
            f"{card} would say whose vectors these are, and is another file; choose another name for the "
            ".csv."
        )


def import_file(address: str | Path, path: str | Path) -> tuple[VectorStore, int]:
    """Read a file's rows into a store; the store is made where there is none.

    The whole file is checked before the store is made or changed.

    Args:
        address: the store's.
        path: a .parquet, .npz or .csv file: of `export`, of `nearfar embed --out`, or another with ids and
            vectors (a CSV: columns id and v0, v1, ...).

    Returns:
        The store, and how many rows were read.

    Raises:
        NearfarError: the file cannot be read, or its vectors are another encoder's.
    """
    file = Path(path)
    open_ = {".parquet": _from_parquet, ".npz": _from_npz, ".csv": _from_csv}[_suffix(file, "--import")]
    try:
        facts, dim, tables = open_(file)
        if left := facts.pop(_LEFT, None):
            named = f"column{'s' * (len(left) > 1)} {', '.join(left)}"
            say(f"{file}: without the {named}, of neither texts, numbers, flags nor times.")
        # What a file says of itself is not trusted to be of the right kind.
        names = {"encoder": str, "run": str, "preprocess": dict, "modality": str, "engine": str}
        said = {name: facts[name] for name, type_ in names.items() if isinstance(facts.get(name), type_)}
        size = facts.get("thumbnail")
        info = StoreInfo(dim, thumbnail=size if isinstance(size, int) else THUMBNAIL, **said)
        StoreInfo.read(json.dumps(info.to_json()), str(file))  # else a store would be made that none can open
        try:
            there = open_store(address).columns
        except NearfarError:  # none yet, or one that cannot be opened, which is said below
            there = {**info.fixed}
        _check(tables, info, there)
        store = open_store(address, info)
        count = 0
        for table in open_(file)[2]:
            store.upsert(table)
            count += len(table)
    except (*ERRORS, IndexError, TypeError, csv.Error) as error:
        raise NearfarError(f"{file} cannot be imported: {str(error)[:200]}.") from None
    return store, count


def _check(tables: Iterator[Any], info: StoreInfo, columns: dict[str, str]) -> None:
    """Refuse what a store would refuse of any of a file's chunks.

    Raises:
        NearfarError: something does not fit; the sentence names it.
    """
    seen: set[str] = set()
    for table in tables:
        new = arrow_rows.incoming(table, info, columns)
        ids = new["id"].to_pylist()
        twice = next((name for name in ids if name in seen), None)
        if twice is not None:
            raise NearfarError(f"the id {twice!r} occurs twice; give each row a unique name.")
        seen.update(ids)
        kinds = {name: schema.kind_of(new.schema.field(name).type) for name in new.column_names}
        columns = {**{name: kind for name, kind in kinds.items() if kind}, **columns}


Opened = tuple[dict[str, Any], int, Iterator[Any]]


def _facts(text: str | bytes) -> dict[str, Any]:
    with suppress(ValueError):
        found = loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def _from_parquet(path: Path) -> Opened:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(plain_path(path))
    layout = file.schema_arrow
    lost = next((name for name in ("id", "vector") if name not in layout.names), None)
    if lost:
        raise NearfarError(f"{path} has no column {lost!r}; it needs id and vector.")
    type_ = layout.field("vector").type
    first = next(file.iter_batches(1, columns=["vector"]), None)
    if pa.types.is_fixed_size_list(type_):
        dim = type_.list_size
    else:
        dim = len((first[0][0].as_py() if first else None) or [])
    if dim < 1:
        raise NearfarError(f"{path} has no vector in its first row; each row needs one.")
    kinds = {name: schema.kind_of(layout.field(name).type) for name in layout.names}
    kept = [name for name, kind in kinds.items() if name in schema.HIDDEN or kind]
    times = [name for name in layout.names if name not in kept and schema.is_written(layout.field(name).type)]
    batches = file.iter_batches(CHUNK, columns=[*(name for name in kept if name != schema.KEY), *times])
    facts = _facts((layout.metadata or {}).get(b"nearfar", b""))
    facts[_LEFT] = [name for name in layout.names if name not in kept and name not in times]
    return facts, dim, (_written(pa.Table.from_batches([batch]), times) for batch in batches)


def _written(table: Any, columns: Sequence[str]) -> Any:
    """Write times and decimal numbers of a table as texts."""
    import pyarrow as pa

    for name in columns:
        words = [None if value is None else str(value) for value in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(words, pa.string()))
    return table


def _from_npz(path: Path) -> Opened:
    with open_arrays(path) as file:
        try:
            held = {name: file[name] for name in file.files}
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            raise NearfarError(
                f"{path} holds an array of Python objects, which is never loaded; save texts as "
                "np.array(texts, str)."
            ) from None
    facts = _facts(str(held.pop("provenance", "")))
    ids, vectors = held.pop("ids", None), held.pop("vectors", None)
    good = vectors is not None and vectors.ndim == 2 and vectors.dtype.kind in "fiub" and vectors.shape[1]
    if ids is None or ids.ndim != 1 or not good or len(ids) != len(vectors):
        raise NearfarError(f"{path} needs the arrays ids, n names, and vectors, (n, d) numbers.")
    for one, other in (("label", "labels"), ("id", "ids")):
        if {one, other} <= {*held, "ids"}:
            raise NearfarError(f"{path} has the arrays {one} and {other}; keep one.")
    named = {"labels": "label", **{f"{_COLUMN}{name}": name for name in _TAKEN}}
    words = {"id": ids, **{named.get(name, name): array for name, array in held.items()}}
    facts[_LEFT] = [name for name, array in words.items() if array.shape != (len(ids),)]
    columns = {name: _words_of(words[name]) for name in words if name not in facts[_LEFT]}
    with np.errstate(over="ignore"):  # what is too large is refused as infinite
        return facts, vectors.shape[1], _typed(columns, vectors.astype(np.float32), facts)


def _words_of(array: Any) -> list[str | None]:
    """Write the values of an array as words: bytes as the text that they are, days and times by ISO 8601."""
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    if array.dtype.kind in "mM":
        array = np.where(np.isnat(array), "", array.astype(str))
    none = ("", "nan") if array.dtype.kind == "f" else ("",)  # a text may be nan
    return [None if (word := str(value)) in none else word for value in array.tolist()]


def _from_csv(path: Path) -> Opened:
    facts: dict[str, Any] = {}
    with suppress(OSError):
        facts = _facts(path.with_suffix(".json").read_bytes())
    csv.field_size_limit(1 << 30)  # a text may be long
    lines = read_rows(path)
    heads = [head.strip() for head in next(lines, (0, []))[1]]
    said = facts.get("dim")
    dim = said if isinstance(said, int) and 0 < said <= len(heads) else 0
    if not dim:
        while f"v{dim}" in heads:
            dim += 1
    at = [len(heads) - 1 - heads[::-1].index(f"v{k}") for k in range(dim) if f"v{k}" in heads]
    if "id" not in heads or not at or len(at) < dim:
        raise NearfarError(f"{path} needs a heading with id and v0, v1, ... for the vectors.")
    names = {k: head for k, head in enumerate(heads) if k not in at}
    twice = next((head for head, count in Counter(names.values()).items() if count > 1), None)
    if twice is not None:
        raise NearfarError(f"{path} has two columns named {twice!r}; rename one.")
    rows, vectors = [], []
    for number, row in lines:
        if len(row) < len(heads):
            raise NearfarError(
                f"{path}, line {number}: {counted(len(row), 'cell')}, and the heading has {len(heads)}; fix "
                "the line."
            )
        try:
            vectors.append(np.array([row[k] for k in at], np.float32))
        except ValueError:
            raise NearfarError(f"{path}, line {number}: v0, v1, ... are no numbers; fix the line.") from None
        rows.append(row)
    words = {head: [row[k] or None for row in rows] for k, head in names.items()}
    return facts, len(at), _typed(words, np.array(vectors, np.float32).reshape(-1, len(at)), facts)


def _typed(words: dict[str, list[str | None]], vectors: Vectors, facts: dict[str, Any]) -> Iterator[Any]:
    """Give columns of words their kinds, as the file says or as the words look, and cut them into chunks."""
    import pyarrow as pa

    said, kind_of_data = facts.get("columns"), str(facts.get("modality", IMAGES))
    fixed = StoreInfo(vectors.shape[1], modality=kind_of_data).fixed
    kinds = {**(said if isinstance(said, dict) else {}), **fixed}
    made = {}
    for name, column in words.items():
        values = column if kinds.get(name) == "text" else values_of(name, column, kinds.get(name))
        kind = schema.kind_of_values(name, values, {})
        made[name] = pa.array(
            values, schema.arrow_type(name, kind, fixed) if kind != "number" else pa.float64()
        )
    table = pa.table({**made, "vector": arrow_rows.fixed(vectors)})
    return (table.slice(low, CHUNK) for low in range(0, len(table), CHUNK))
