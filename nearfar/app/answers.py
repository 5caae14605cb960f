"""Answers of the page's server: lists, arrays, and values that JSON has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import Response

from ..core.errors import NearfarError
from ..queries.listing import Listing
from .frames import frame
from .page_files import BINARY
from .requests import MOST
from .row_numbers import NumberedStore

_NUMBER = re.compile(r"[0-9]{1,9}")


def framed(head: dict[str, Any], **arrays: Any) -> Response:
    """Answer with arrays: a head that JSON has, then their bytes; see `frames.frame`.

    Args:
        head: of plain values.
        **arrays: by name.
    """
    return Response(frame(head, **arrays), media_type=BINARY)


def listed(rows: NumberedStore, listing: Listing, **more: Any) -> Response:
    """Answer with a list: numbers of rows, and what is known of each.

    Args:
        rows: give the numbers; images that are gone are left out.
        listing: the list.
        **more: plain values beside it.
    """
    with rows.lock:  # else numbers might be of another state than their key
        at, key = rows.ids.places(listing.ids), rows.key
    there = np.flatnonzero(at >= 0).tolist()
    columns = {name: [plain(values[place]) for place in there] for name, values in listing.columns.items()}
    head = {
        "title": listing.title,
        "lines": listing.lines,
        "grouped": listing.grouped,
        "columns": columns,
    }
    return framed({**head, **more, "key": key}, rows=at[there])


def numbered(rows: NumberedStore, ids: Sequence[str]) -> Response:
    """Answer with the numbers of images; those that are gone are left out.

    Args:
        rows: give the numbers.
        ids: of the images.
    """
    with rows.lock:
        key, found = rows.key, rows.numbers(ids)
    return framed({"key": key}, rows=found)


def named_in(rows: NumberedStore, at: str, key: str) -> list[str]:
    """Read row numbers from an address, and name their images.

    Args:
        rows: know the numbers.
        at: numbers with commas between them.
        key: of the numbering that the page has.

    Raises:
        NearfarError: these are no numbers, or too many.
    """
    words = at.split(",")
    if len(words) > MOST or not all(_NUMBER.fullmatch(word) for word in words):
        raise NearfarError("the request is malformed.")
    return rows.named([int(word) for word in words], key)


def plain(value: Any) -> Any:
    """Turn a value into one that JSON has.

    Args:
        value: a number of NumPy or Python, text, a flag or None.
    """
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def plains(row: dict[str, Any]) -> dict[str, Any]:
    """Turn a row's values into those that JSON has.

    Args:
        row: by column.
    """
    return {name: plain(value) for name, value in row.items()}
