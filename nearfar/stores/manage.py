"""`nearfar store`: what a vector store holds; adds columns, deletes, compacts, imports and exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.errors import NearfarError
from ..core.text import as_list, counted
from . import conditions, import_export
from .columns import read_columns
from .open import open_store


@dataclass(frozen=True)
class Summary:
    """What is in a store, and what was done to it.

    Attributes:
        address: the store's.
        images: rows.
        dim: numbers in a vector.
        run: the run whose encoder made them, or "".
        encoder: its fingerprint, or "".
        version: of the store; it rises with every change.
        columns: kinds by name.
        done: what was asked for and done, a few words each.
        one: the word for what a row is of.
    """

    address: str
    images: int
    dim: int
    run: str
    encoder: str
    version: int
    columns: dict[str, str]
    done: tuple[str, ...]
    one: str = "image"

    def to_json(self) -> dict[str, Any]:
        """Describe it in plain values."""
        told = {name: value for name, value in asdict(self).items() if name != "one"}
        return {**told, "done": list(self.done)}

    def __str__(self) -> str:
        """Say it in a few lines."""
        maker = f"{self.run or 'unknown'} ({self.encoder[:12] or 'no fingerprint'})"
        listed = ", ".join(f"{name} ({kind})" for name, kind in self.columns.items())
        first = (
            f"{self.address}: {counted(self.images, self.one)}, vectors of {self.dim} numbers, version "
            f"{self.version}"
        )
        return "\n".join([*self.done, first, f"encoder: {maker}", f"columns: {listed}"])


def store(
    address: str | Path,
    *,
    import_file: str | Path | None = None,
    drop: Sequence[str] = (),
    columns: str | Path | None = None,
    delete: str | None = None,
    compact: bool = False,
    export_file: str | Path | None = None,
    where: str | None = None,
) -> Summary:
    """Inspect and maintain a vector store; actions run in the order listed.

    Example: nearfar store photos.nf --export photos.parquet

    Args:
        address: the store's.
        import_file: read rows from a .parquet, .npz or .csv file; the store is created if missing.
        drop: columns to remove, with all that they hold; those that every store has stay.
        columns: add columns from a .csv or .tsv, whose first column names images by id or path.
        delete: delete the images that meet a condition, such as "label = 'cat' and width < 64".
        compact: reclaim the disk space of deleted rows.
        export_file: write all rows to a .parquet, .npz or .csv file.
        where: with --export: only the images that meet a condition, such as "set_aside is null".

    Returns:
        What is in it.

    Raises:
        NearfarError: there is no store, or something asked for cannot be done.
    """
    done, drop = [], as_list(drop)
    if where is not None and export_file is None:
        raise NearfarError("--where says which rows --export writes; give both, or see nearfar search.")
    if import_file is not None:
        found, count = import_export.import_file(address, import_file)
        done.append(f"imported {counted(count, 'row')} from {import_file}")
    else:
        found = open_store(address)
    if drop:
        if columns is None:  # which may bring a column back
            left = {name: kind for name, kind in found.columns.items() if name not in drop}
            for text in (delete, where):
                if text is not None:
                    conditions.parse(text, left)
        found.drop(drop)
        done.append(f"dropped {', '.join(drop)}")
    if columns is not None:
        done.append(f"joined {counted(read_columns(columns).join(found), 'row')} of {columns}")
    if delete is not None:
        done.append(f"deleted {counted(found.delete(where=delete), found.info.one)}")
    if compact:
        found.compact()
        done.append("compacted")
    if export_file is not None:
        ids = None if where is None else found.ids(where)
        done.append(
            f"exported {counted(import_export.export(found, export_file, ids), 'row')} to {export_file}"
        )
    info = found.info
    maker = (info.run, info.encoder)
    return Summary(
        found.address, len(found), info.dim, *maker, found.version, found.columns, tuple(done), info.one
    )
