"""Formats figures for people: a share in percent, a small table."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float | None) -> str:
    """Write a share as "62.3 %", or as a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def columns(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lay a small table out in columns, the first 26 characters wide, the others as wide as they need.

    Args:
        heads: one title a column.
        cells: rows of as many words.

    Returns:
        Lines, the titles first.
    """
    rows = [heads, *cells]
    widths = [26, *(max(len(row[at]) for row in rows) + 2 for at in range(1, len(heads)))]
    return [
        "".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
