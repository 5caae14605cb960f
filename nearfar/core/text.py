"""Formats figures for people: a share in percent, a small table; and makes names of strangers harmless."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def percent(share: float | None) -> str:
    """Write a share as "62.3 %", or as a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


_MANY = {"is": "are", "was": "were", "has": "have", "meets": "meet", "looks": "look", "allows": "allow"}


def counted(number: int, what: str) -> str:
    """Write a number with what is counted: "1 image is", "2,000 images are".

    Args:
        number: how many.
        what: one of them, and the verb that follows, if one does.

    Returns:
        The number, and as many of them.
    """
    if number == 1:
        return f"1 {what}"
    *words, last = what.split(" ")
    verb = [_MANY[last]] if last in _MANY else []
    noun = words.pop() if verb else last
    if noun.endswith(("s", "x", "ch")):
        noun += "es"
    elif noun.endswith("y") and noun[-2] not in "aeiou":
        noun = f"{noun[:-1]}ies"
    else:
        noun += "s"
    return " ".join([f"{number:,}", *words, noun, *verb])


def as_list(names: str | Iterable[str]) -> list[str]:
    """Take names, of which a caller may give one without brackets: a text is a list of its letters too.

    Args:
        names: some names, or one.
    """
    return [names] if isinstance(names, str) else list(names)


def columns(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lay a small table out in columns, the first 26 characters wide or more, the others as they need.

    Args:
        heads: one title a column.
        cells: rows of as many words.

    Returns:
        Lines, the titles first.
    """
    rows = [heads, *cells]
    widths = [max(len(row[at]) for row in rows) + 2 for at in range(len(heads))]
    widths[0] = max(widths[0], 26)
    return [
        "".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def printable(text: str, keep: str = "") -> str:
    """Make untrusted text safe to print: what could command a terminal becomes a question mark.

    Args:
        text: such as the name of a file.
        keep: control characters that stay.

    Returns:
        The same length of text.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else "?" for letter in text)


_TURNED = ("R", "AL", "AN")  # classes of letters that are written from right to left
_ASIDE, _BACK = "\u2068", "\u2069"


def isolated(text: str) -> str:
    """Keep words that are written from right to left from turning what stands beside them in a line.

    Args:
        text: to be printed.

    Returns:
        The text, with Unicode's marks of an isolated part around such words, which have no width.
    """
    if text.isascii():
        return text

    def marked(word: str) -> str:
        turned = any(unicodedata.bidirectional(letter) in _TURNED for letter in word)
        return f"{_ASIDE}{word}{_BACK}" if turned else word

    return "".join(marked(word) for word in re.split(r"(\s+)", text))


def spreadsheet_cell(value: Any) -> Any:
    """Keep a spreadsheet from taking a text for a formula: an apostrophe comes before =, +, -, @ and tabs.

    Args:
        value: of a cell; numbers, also as text, stay.

    Returns:
        The value to write in a CSV; `from_spreadsheet_cell` takes the apostrophe away again.
    """
    if not isinstance(value, str) or not value.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def from_spreadsheet_cell(text: str) -> str:
    """Read what `spreadsheet_cell` wrote."""
    return text[1:] if text.startswith("'") and spreadsheet_cell(text[1:]) != text[1:] else text


def bytes_of(text: str) -> bytes:
    """Encode a text as it was read; what was no UTF-8 is none again.

    Args:
        text: of a list, in which bytes that are no UTF-8 are surrogate-escaped, or of JSON, which can name
            half a letter.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
