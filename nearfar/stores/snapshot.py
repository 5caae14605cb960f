"""Keeps a searchable copy of a store's vectors on disk: unit rows to map into memory, and codes of many.

Files are named by the store's version and written aside; `search.json`, written last, says which belong
together. A damaged copy is not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import atomic_write
from ..core.shapes import loads
from . import quantised
from .brute_force import Cosines, Rows, unit_rows

NOTE = "search.json"
Piece = tuple[Any, Rows, Cosines]  # ids as an Arrow array, digests of vectors, vectors


@dataclass(frozen=True)
class Copy:
    """The vectors as they were at one version: `ids` and `keys` name the rows of `unit` (n, d)."""

    ids: Any
    keys: Rows
    unit: Cosines
    codes: quantised.Codes | None = None

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.unit)


def empty(dim: int) -> Copy:
    """Make a copy of nothing."""
    import pyarrow as pa

    return Copy(pa.array([], pa.string()), np.empty(0, np.int64), np.empty((0, dim), np.float32))


def note(folder: Path) -> dict[str, Any]:
    """Read what is written about the copy in a folder; nothing where there is none."""
    try:
        found = loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def load(folder: Path, dim: int) -> Copy:
    """Open the copy in a folder, mapped into memory.

    Args:
        folder: where it lies.
        dim: numbers in a vector.

    Returns:
        The copy; an empty one if anything is missing or damaged.
    """
    import pyarrow as pa

    try:
        facts = note(folder)
        stem = folder / str(facts["name"])
        with pa.memory_map(f"{stem}.arrow") as file:
            table = pa.ipc.open_file(file).read_all()
        rows = np.load(f"{stem}.npy", mmap_mode="r", allow_pickle=False)
        if rows.shape != (len(table), dim) or rows.dtype != np.float32:
            return empty(dim)
        refine, recall = facts["refine"], facts["recall"]
        made = quantised.read(Path(f"{stem}.faiss"), refine, recall) if refine else None
        ids = table["id"]  # of one chunk, as `write` leaves it: it then stays in the file
        names = ids.chunk(0) if ids.num_chunks == 1 else ids.combine_chunks()
        return Copy(names, table["key"].to_numpy(), rows, made)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError):
        return empty(dim)


def write(folder: Path, version: int, dim: int, count: int, pieces: Iterator[Piece], codes: bool) -> Copy:
    """Copy a store's vectors, and make codes of them if wanted.

    Args:
        folder: where to; it is made.
        version: the store's, which names the files.
        dim: numbers in a vector.
        count: rows that the pieces hold together.
        pieces: ids, digests and vectors.
        codes: whether to make codes.

    Returns:
        The copy, opened.

    Raises:
        NearfarError: it cannot be written.
    """
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / str(version)
    ids, keys = [pa.array([], pa.string())], [np.empty(0, np.int64)]
    with atomic_write(folder / f"{version}.npy") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for some, digests, vectors in pieces:
            file.write(unit_rows(np.array(vectors, np.float32)).tobytes())
            ids.append(some)
            keys.append(digests)
    table = pa.table({"id": pa.chunked_array(ids).combine_chunks(), "key": np.concatenate(keys)})
    with atomic_write(folder / f"{version}.arrow") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    del ids, keys, table  # before codes are made: of ten million rows, more than a GB
    facts: dict[str, Any] = {"name": version, "rows": count, "refine": 0, "recall": 1.0}
    if codes and count >= quantised.FEWEST:
        made = quantised.build(np.load(folder / f"{version}.npy", mmap_mode="r"), Path(f"{stem}.faiss"))
        facts |= {"refine": made.refine, "recall": made.recall}
    with atomic_write(folder / NOTE) as file:
        file.write(json.dumps(facts).encode())
    for old in folder.iterdir():  # a process that has them open keeps them
        if old.suffix in (".npy", ".arrow", ".faiss") and old.name.split(".")[0] != str(version):
            old.unlink(missing_ok=True)
    return load(folder, dim)
