"""The columns of a store: their names, their kinds, and which values they take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ..core.errors import NearfarError, nearest
from .base import FIXED, Value, VectorStore
from .conditions import EXACT, WORDS

if TYPE_CHECKING:
    import pyarrow

SETTABLE = ("label", "path")  # of the fixed columns
KEY = "_key"  # a digest of the vector, by which an index knows what has changed
HIDDEN = ("vector", "thumbnail", KEY)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")


def check_column(name: str, columns: Mapping[str, str]) -> None:
    """Refuse a name that no column can have.

    Args:
        name: of a column to come.
        columns: those there are.

    Raises:
        NearfarError: it is taken by the store itself, a word of conditions, or not made of letters.
    """
    taken = name in HIDDEN or name.lower() in WORDS
    if not _NAME.fullmatch(name) or taken:
        plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_0123456789")[:60] or "column"
        offered = f"{plain}_" if plain in HIDDEN or plain.lower() in WORDS else plain
        raise NearfarError(
            f"a column cannot be named {name!r}; names have letters, digits and _, such as {offered}."
        )
    twin = next((other for other in columns if other.lower() == name.lower() and other != name), None)
    if twin:
        raise NearfarError(
            f"a column {twin!r} exists already, and {name!r} differs from it only in case; use another name."
        )


@cache
def column_names(prefix: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Make names of columns of any words, such as those of classes.

    Args:
        prefix: comes before each.
        words: no two are the same.

    Returns:
        A name each that a column can have, with _ for what is no letter or digit of ASCII, and a number
        where two would be the same.
    """
    found: dict[str, str] = {}
    for word in words:
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", f"{prefix}_{word}")
        name, number = plain[:60], 1
        while name.lower() in found:
            number += 1
            name = f"{plain[:55]}_{number}"
        found[name.lower()] = name
    return tuple(found.values())


def check_deleted(ids: Sequence[str] | None, where: str | None) -> None:
    """Refuse to delete where it is not said what.

    Args:
        ids: of the rows.
        where: a condition on them.

    Raises:
        NearfarError: there is neither, or the ids are one text, whose letters would be taken for ids.
    """
    if ids is None and where is None:
        raise NearfarError("deleting needs ids or a condition; give one.")
    if isinstance(ids, str):
        raise NearfarError(f"ids is the text {ids!r}; give a list of ids, or a condition with where=.")


def check_dropped(names: Sequence[str], columns: Mapping[str, str], fixed: Container[str]) -> None:
    """Refuse to drop columns that are not the owner's own.

    Args:
        names: to be dropped.
        columns: those there are.
        fixed: those that the store has from the start.

    Raises:
        NearfarError: the store itself needs one, or one is not there.
    """
    if isinstance(names, str):
        raise NearfarError(f"the columns to drop are the text {names!r}; give a list of names.")
    own = [name for name in columns if name not in fixed]
    for name in names:
        if name in fixed or name in HIDDEN:
            which = f"; yours are {', '.join(own)}" if own else ", and it has no others"
            raise NearfarError(f"the column {name!r} is the store's own and stays{which}.")
    wanted(names, dict.fromkeys(own, ""))


def check_kinds(
    kinds: Mapping[str, str], store: VectorStore, instead: str = "name another column, or "
) -> None:
    """Refuse columns that values of these kinds cannot be written to, before the values are computed.

    Args:
        kinds: column to the kind that its values will have.
        store: where to.
        instead: what else an error offers.

    Raises:
        NearfarError: the column is not to be set by hand, or holds values of another kind, or the store is
            read-only.
    """
    store.check_writable()
    there = store.columns
    for name, kind in kinds.items():
        check_update(name, [], there, store.info.fixed)
        known = there.get(name, kind)
        if known != kind:
            raise NearfarError(
                f"the column {name!r} of {store.address} holds a {known} in each row, and a {kind} is to be "
                f"written; {instead}drop this one first: "
                f"nearfar store {shlex.quote(store.address)} --drop {shlex.quote(name)}"
            )


def arrow_type(column: str, kind: str, fixed: Container[str]) -> pyarrow.DataType:
    """Say how a column is kept; `fixed` are those that the store has from the start."""
    import pyarrow as pa

    if kind == "number":
        return pa.int64() if column in fixed else pa.float64()
    return pa.string() if kind == "text" else pa.bool_()


def kind_of(type_: pyarrow.DataType) -> str | None:
    """Say which kind of column an Arrow type makes, or None."""
    import pyarrow as pa

    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_boolean(type_):
        return "flag"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    return "text" if text or pa.types.is_null(type_) else None


def is_written(type_: pyarrow.DataType) -> bool:
    """Tell whether values of an Arrow type are kept as texts: days, times and decimal numbers."""
    import pyarrow as pa

    return bool(pa.types.is_temporal(type_) or pa.types.is_decimal(type_))


def kind_of_values(column: str, values: Sequence[Value], columns: Mapping[str, str]) -> str:
    """Say of which kind a column is, or has to become, to hold these values.

    Raises:
        NearfarError: they are of several kinds, or of another than the column.
    """
    found = {
        "text" if isinstance(value, str) else "flag" if isinstance(value, bool) else "number"
        for value in values
        if value is not None
    }
    long = next((v for v in values if isinstance(v, int) and abs(v) > EXACT), None)
    if long is not None:
        raise NearfarError(
            f"the column {column} would round {long}; give numbers above 2^53, such as ids, as text."
        )
    kind = columns.get(column) or (min(found) if found else "text")
    if found - {kind}:
        raise NearfarError(f"the column {column} holds a {kind} in each row, not a {min(found - {kind})}.")
    return kind


def check_texts(texts: Sequence[str | None], what: str) -> None:
    """Refuse text that no database keeps: a NUL, or half of a surrogate pair."""
    for text in texts:
        if text and ("\0" in text or text.encode(errors="replace").decode() != text):
            raise NearfarError(f"{what} {text[:40]!r} holds a character that cannot be stored; rename it.")


def wanted(columns: Sequence[str] | None, known: Mapping[str, str]) -> list[str]:
    """Name the columns to read, each of which has to be there.

    Raises:
        NearfarError: one is not.
    """
    for name in columns or ():
        if name not in known:
            raise NearfarError(f"there is no column {name!r}; {nearest(name, known)}")
    return list(known) if columns is None else list(columns)


def without_nan(values: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Value]]:
    """Take NaN as no value, which no condition could ask for; `values` are as for `check_updates`."""
    return {
        name: {one: None if value != value else value for one, value in some.items()}
        for name, some in values.items()
    }


def check_updates(
    values: Mapping[str, Mapping[str, Value]], columns: Mapping[str, str], fixed: Container[str] = FIXED
) -> dict[str, str]:
    """Say of which kinds the values of several columns are that may be set.

    Args:
        values: column to id to value; each column names the same ids.
        columns: those there are, and their kinds.
        fixed: those that the store has from the start.

    Raises:
        NearfarError: as `check_update`, or the columns name different ids.
    """
    if len({frozenset(some) for some in values.values()}) > 1:
        raise NearfarError("the columns to set name different ids; give each the same ones.")
    return {name: check_update(name, list(some.values()), columns, fixed) for name, some in values.items()}


def check_update(
    column: str, values: Sequence[Value], columns: Mapping[str, str], fixed: Container[str] = FIXED
) -> str:
    """Say of which kind the values of a column are that may be set.

    Args:
        column: its name; it may be missing.
        values: to come.
        columns: those there are, and their kinds.
        fixed: those that the store has from the start.

    Raises:
        NearfarError: the column is not to be set by hand, or the values are of another kind.
    """
    if column in fixed and column not in SETTABLE:
        raise NearfarError(
            f"the column {column!r} is computed from the image and cannot be set; use another name."
        )
    if column not in columns:
        check_column(column, columns)
    kind = kind_of_values(column, values, columns)
    check_texts([value for value in values if isinstance(value, str)], f"the {column}")
    return kind
