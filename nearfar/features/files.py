"""Writes vectors with their names to a file that others read: Parquet, .npz or .npy, whole or not at all."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.atomic import atomic_write, check_place, refuse_address
from ..core.errors import NearfarError

Vectors = npt.NDArray[np.float32]
SUFFIXES = (".parquet", ".npz", ".npy")
GROUP = 8192  # rows in a Parquet row group
_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # where readers of lines may break them


def check_name(path: Path) -> None:
    """Refuse a file name that cannot be written to, before any work is done.

    Args:
        path: where vectors are to go.

    Raises:
        NearfarError: the suffix is none of `SUFFIXES`, a folder stands there, or beside a .npy that is not
            there yet lie files of others that would be replaced.
    """
    refuse_address(path)
    if path.suffix.lower() not in SUFFIXES:
        raise NearfarError(
            f"--out {path} ends in {path.suffix or 'no suffix'}; name a .parquet, .npz or .npy file."
        )
    if path.is_dir():
        raise NearfarError(
            f"--out {path} is a folder; name a file in it, such as {path / 'vectors.parquet'}."
        )
    check_place(path)
    if path.suffix.lower() == ".npy" and not path.exists() and not _is_ours(path.with_suffix(".json")):
        beside = (path.with_suffix(suffix) for suffix in (".json", ".ids.txt", ".labels.txt"))
        if taken := next((str(name) for name in beside if name.exists()), None):
            raise NearfarError(f"--out {path} would also write {taken}, which is there; name another file.")


def _is_ours(path: Path) -> bool:
    """Tell whether a file says what made some vectors; it is the first of those beside them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"encoder", "preprocess"} <= found.keys()


def write_vectors(
    path: Path,
    ids: Sequence[str],
    vectors: Vectors,
    labels: Sequence[str] | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write vectors in the format that the file's suffix names.

    `.parquet`: columns id (string), label (string, if any) and vector (fixed-size list of float32), with
    the provenance as JSON under "nearfar" in the schema's metadata. `.npz`: arrays ids, vectors, labels if
    any, and provenance as JSON. `.npy`: the vectors, with `.ids.txt`, `.labels.txt` if any and `.json`.

    Args:
        path: where to, ending in one of `SUFFIXES`; an old file is replaced in one move.
        ids: n names, in order.
        vectors: (n, d) float32.
        labels: n class names, or None.
        provenance: what made them, in plain values.

    Raises:
        NearfarError: the name is wrong, or the place cannot be written.
    """
    check_name(path)
    {".parquet": _parquet, ".npz": _npz, ".npy": _npy}[path.suffix.lower()](
        path, ids, vectors, labels, json.dumps(provenance, ensure_ascii=False)
    )


def _parquet(
    path: Path, ids: Sequence[str], vectors: Vectors, labels: Sequence[str] | None, provenance: str
) -> None:
    import pyarrow as pa

    width = vectors.shape[1]
    columns = {"id": pa.array(ids, pa.string())}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.string())
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, width)
    table = pa.table(columns)
    write_parquet(path, (table.slice(low, GROUP) for low in range(0, len(ids), GROUP)), provenance)


def write_parquet(path: Path, tables: Iterable[Any], provenance: str) -> None:
    """Write a Parquet file of vectors, a table at a time.

    Args:
        path: where to; an old file is replaced in one move.
        tables: Arrow tables of `GROUP` rows each, the last one of fewer; at least one.
        provenance: what made them, as JSON.

    Raises:
        NearfarError: the place cannot be written.
    """
    import pyarrow.parquet as pq

    writer = None
    with atomic_write(path) as file:
        for table in tables:
            table = table.replace_schema_metadata({"nearfar": provenance})
            if writer is None:
                how = {"compression": "zstd", "use_dictionary": ["label"]}
                writer = pq.ParquetWriter(file, table.schema, **how)
            writer.write_table(table, row_group_size=GROUP)
        if writer is not None:
            writer.close()


def _npz(
    path: Path, ids: Sequence[str], vectors: Vectors, labels: Sequence[str] | None, provenance: str
) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {"ids": np.array(ids, dtype=np.str_), "vectors": vectors}
    if labels is not None:
        arrays["labels"] = np.array(labels, dtype=np.str_)
    arrays["provenance"] = np.array(provenance)
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # numpy's own savez stamps the time of day; the same vectors must give the same bytes.
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _npy(
    path: Path, ids: Sequence[str], vectors: Vectors, labels: Sequence[str] | None, provenance: str
) -> None:
    texts = {".json": provenance + "\n", ".ids.txt": _lines(ids)}
    if labels is not None:
        texts[".labels.txt"] = _lines(labels)
    for suffix, text in texts.items():
        with atomic_write(path.with_suffix(suffix)) as file:
            file.write(text.encode())
    with atomic_write(path) as file:
        np.lib.format.write_array(file, vectors, allow_pickle=False)


def _lines(words: Sequence[str]) -> str:
    """Put one word on each line; what may break a line inside a name is escaped, so that lines count."""
    plain = (word.replace("\\", "\\\\") for word in words)
    return "".join(
        _BREAKS.sub(lambda it: it[0].encode("unicode_escape").decode(), word) + "\n" for word in plain
    )
