"""Writes values and small updates in LanceDB's SQL, which binds none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import conditions

SET = 64  # rows that one statement sets; for more, LanceDB's merge costs less
_TYPES = {"text": "string", "number": "double", "flag": "boolean"}


def literal(value: conditions.Literal) -> str:
    """Write a value."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def among(ids: Sequence[str]) -> str:
    """Write the condition that a row is one of these; of none, that it is no row."""
    return f"id in ({', '.join(map(literal, ids))})" if ids else "false"


def assignments(
    ids: Sequence[str], values: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]
) -> dict[str, str] | None:
    """Write what each column becomes in a few rows.

    An update of these costs some 4 KB on disk; a merge costs 70, most of it a filter of the ids, which tells
    other writers what was inserted and is of no use where nothing can be.

    Args:
        ids: the rows.
        values: column to id to value.
        kinds: of the columns: "text", "number" or "flag".

    Returns:
        An expression for each column; None where the rows are many, or a number is not finite.
    """
    numbers = [value for some in values.values() for value in some.values() if isinstance(value, float)]
    if len(ids) > SET or not all(map(math.isfinite, numbers)):
        return None
    place = f"cast(array_position(make_array({', '.join(map(literal, ids))}), id) as bigint)"
    written = {
        name: [f"cast({'null' if some[one] is None else literal(some[one])} as {_TYPES[kinds[name]]})"
               for one in ids]
        for name, some in values.items()
    }  # fmt: skip
    return {
        name: some[0] if len({*some}) == 1 else f"array_element(make_array({', '.join(some)}), {place})"
        for name, some in written.items()
    }
