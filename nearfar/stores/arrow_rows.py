"""The rows of a store as Arrow tables: checked as they come in, laid out, and put in order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import NearfarError
from .base import StoreInfo, Vectors
from .conditions import EXACT
from .schema import HIDDEN, KEY, arrow_type, check_column, check_texts, kind_of

if TYPE_CHECKING:
    import pyarrow

LONGEST, SHORTEST = 1e18, 1e-12  # of vectors: the square of a longer one overflows, a shorter one counts as 0


def incoming(table: pyarrow.Table, info: StoreInfo, columns: Mapping[str, str]) -> pyarrow.Table:
    """Check rows that are to come in, and give their columns the store's types and order.

    Args:
        table: as `VectorStore.upsert` takes it.
        info: the store's.
        columns: the store's, and their kinds.

    Returns:
        id, the columns that `table` has, thumbnail if it has them, vector, and `KEY`.

    Raises:
        NearfarError: something does not fit; the sentence names it.
    """
    import pyarrow as pa

    missing = next((name for name in ("id", "vector") if name not in table.column_names), None)
    if missing:
        raise NearfarError(f"the rows have no column {missing!r}; a store needs id and vector.")
    ids = table["id"].cast(pa.string()).to_pylist()
    if not all(ids):
        raise NearfarError("a row has no id; give each row a unique name.")
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise NearfarError(f"the id {twice!r} occurs twice; give each row a unique name.")
    vectors = matrix(table["vector"], info.dim)
    made: dict[str, Any] = {}
    first = info.fixed
    for name in [*first, *(c for c in table.column_names if c not in first and c not in HIDDEN)]:
        if name not in table.column_names:
            continue
        kind = columns.get(name) or kind_of(table.schema.field(name).type)
        if kind is None:
            raise NearfarError(f"the column {name!r} holds neither text nor numbers; leave it out.")
        if name not in columns:
            check_column(name, {**columns, **made})
            if kind == "number" and name not in first and _has_long(table[name]):
                kind = "text"  # ids that numbers would round
        try:
            made[name] = _measured(table[name].combine_chunks()).cast(arrow_type(name, kind, first))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise NearfarError(
                f"the column {name!r} holds a value that is not a {kind}; fix it or leave the column out."
            ) from None
        if kind == "text":
            check_texts(made[name].to_pylist(), f"the {name}")
    if "thumbnail" in table.column_names:
        made["thumbnail"] = table["thumbnail"].cast(pa.binary())
    made["vector"] = fixed(vectors)
    made[KEY] = pa.array(keys(vectors))
    return pa.table(made)


def _measured(column: pyarrow.Array) -> pyarrow.Array:
    """Take NaN as no value, which is what it means in tables."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _has_long(column: pyarrow.ChunkedArray) -> bool:
    """Tell whether a column has whole numbers that float64 does not hold exactly."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type):
        return False
    ends = pc.min_max(column).as_py()
    return any(end is not None and abs(end) > EXACT for end in ends.values())


def fixed(vectors: Vectors) -> pyarrow.Array:
    """Lay (n, d) float32 as an Arrow column of fixed-size lists."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def matrix(column: pyarrow.ChunkedArray, dim: int) -> Vectors:
    """Turn a column of lists into (n, dim) float32.

    Raises:
        NearfarError: a list is empty or of another length, or a number is not finite, very large or small.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        flat = column.combine_chunks()
        flat = flat.cast(pa.list_(pa.float32())) if not pa.types.is_fixed_size_list(flat.type) else flat
        lengths = set(pc.unique(pc.list_value_length(flat)).to_pylist())
        values = flat.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise NearfarError("the column 'vector' holds no lists of numbers; give it float32 lists.") from None
    if lengths - {dim}:
        raise NearfarError(f"a vector has {min(lengths - {dim}, key=str)} numbers, the store's have {dim}.")
    if not np.isfinite(values).all():
        raise NearfarError("a vector holds numbers that are not finite; embed those images again.")
    found: Vectors = values.reshape(-1, dim)
    lengths = np.sqrt(np.einsum("nd,nd->n", found, found, dtype=np.float64))  # no copy in float64
    odd = lengths[(lengths > LONGEST) | ((lengths > 0) & (lengths < SHORTEST))]
    if len(odd):
        raise NearfarError(
            f"a vector has the length {odd[0]:.3g}, of which float32 loses the direction; scale the vectors "
            "to about 1."
        )
    return found


def keys(vectors: Vectors) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Digest each vector into a whole number, by which its bytes are known again."""
    rows = np.ascontiguousarray(vectors)
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, "<i8").astype(np.int64)


def ordered(table: pyarrow.Table, ids: Sequence[str] | None, strict: bool) -> pyarrow.Table:
    """Put rows in order: sorted by id, or as `ids` has them.

    Args:
        table: rows with a column id, in any order; more of them than wanted will do.
        ids: those wanted.
        strict: whether each of them has to be there.

    Raises:
        NearfarError: one is not.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if ids is None:
        return table.take(pc.sort_indices(table["id"]))
    at = pc.index_in(pa.array(ids, pa.string()), table["id"].combine_chunks())
    if at.null_count and strict:
        gone = next(name for name, place in zip(ids, at.to_pylist(), strict=True) if place is None)
        raise NearfarError(f"there is no {gone!r} in the store; its ids are the paths below its folder.")
    return table.take(at.drop_null())


def check_there(ids: Sequence[str], known: Container[str]) -> None:
    """Refuse ids that are not there.

    Raises:
        NearfarError: one is not; the sentence names the first.
    """
    for name in ids:
        if name not in known:
            raise NearfarError(f"there is no {name!r} in the store; ids are paths below its folder.")
