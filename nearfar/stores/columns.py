"""Reads a list of further columns, such as site or patient, and joins it to a store's rows."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core import progress
from ..core.errors import NearfarError, reason_of
from ..core.text import counted
from ..data.csv_files import PATH_COLUMNS, delimiter_of, from_windows, read_rows
from ..data.lists import refuse_no_heading
from ..data.named_files import portable, short_forms
from ..data.source import real_places
from .base import Value, VectorStore
from .conditions import EXACT
from .schema import SETTABLE, check_update

NAMES = ("id", *PATH_COLUMNS)
_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*|(0|[1-9]\d*)?\.\d+|(0|[1-9]\d*)\.)([eE][-+]?\d+)?")
_WHOLE = re.compile(r"([-+]?\d+)(\.0*)?")
_COMMA = re.compile(r"[-+]?(0|[1-9]\d*),\d+")  # 1,5 in much of Europe; 1,234 may be a thousand elsewhere
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
_ENDLESS = ("inf", "-inf")  # as a store's numbers are written that are so
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True)
class ColumnList:
    """A list as it was read: `names` of images, and each column's words, None where one is empty.

    `commas`: whether a comma may stand in a number, as it does not also stand between cells.
    """

    path: Path
    names: Sequence[str]
    columns: dict[str, list[str | None]]
    commas: bool = False

    def join(self, store: VectorStore) -> int:
        """Write the columns into a store.

        Args:
            store: where to. An image is found by its id, by where its file lies, or by its id without the
                folders, the ending or both, where no other image has the same.

        Returns:
            How many rows of the list found their image.

        Raises:
            NearfarError: none did, or a column does not fit.
        """
        table = store.rows(["id", "path"])
        ids = table["id"].to_pylist()
        by_name = {path: name for name, path in zip(ids, table["path"].to_pylist(), strict=True) if path}
        by_name |= {name: name for name in ids}
        folder = os.path.abspath(self.path.parent)
        places = [os.path.join(folder, name) for name in self.names]
        found = [
            by_name.get(name) or by_name.get(os.path.normpath(place)) or by_name.get(real)
            for name, place, real in zip(self.names, places, real_places(places), strict=True)
        ]
        if None in found:
            short = _by_short_form(ids)
            plain = _by_plain_form(by_name)
            for row, name in enumerate(self.names):
                if found[row] is None:
                    form = portable(name)
                    place = os.path.normpath(os.path.join(folder, form))
                    found[row] = short.get(name) or plain.get(form) or plain.get(place) or short.get(form)
        count = sum(name is not None for name in found)
        if not count:
            raise NearfarError(
                f"{self.path} names no row of {store.address}: it has {self.names[0]!r}, the store "
                f"{ids[0]!r}; write such names in its first column."
                if ids and self.names
                else f"{self.path} or {store.address} is empty; there is nothing to join."
            )
        self._check_once(found)
        if count < len(found):
            lost = next(name for name, place in zip(self.names, found, strict=True) if place is None)
            gone = counted(len(found) - count, "row is")
            progress.say(f"{self.path}: {gone} not in the store, such as {lost}.")
        known = store.columns
        made = {
            name: values_of(name, words, known.get(name), self.commas) for name, words in self.columns.items()
        }
        for name, values in made.items():  # all are checked before one is written
            check_update(name, values, known, store.info.fixed)
        store.update_columns(
            {
                name: {at: v for at, v in zip(found, values, strict=True) if at is not None}
                for name, values in made.items()
            }
        )
        return count

    def _check_once(self, found: Sequence[str | None]) -> None:
        """Refuse rows that name one image in two ways, such as by id and by path, and say other things."""
        first: dict[str, int] = {}
        for row, one in enumerate(found):
            then = row if one is None else first.setdefault(one, row)
            if any(words[row] != words[then] for words in self.columns.values()):
                raise NearfarError(
                    f"{self.path}: {self.names[then]} and {self.names[row]} are both the image {one}, and "
                    "their rows differ; keep one."
                )


def _by_short_form(ids: Sequence[str]) -> dict[str, str]:
    """Find which id a short form stands for, where it is one only."""
    counts = Counter(form for name in ids for form in (name, *short_forms(name)))
    return {form: name for name in ids for form in short_forms(name) if counts[form] == 1}


def _by_plain_form(by_name: Mapping[str, str]) -> dict[str, str]:
    """Find which id a name in the one form of `portable` stands for, where it is one only."""
    found: dict[str, set[str]] = {}
    for name, own in by_name.items():
        found.setdefault(portable(name), set()).add(own)
    return {form: owns.pop() for form, owns in found.items() if len(owns) == 1}


def read_columns(path: str | Path) -> ColumnList:
    """Read a list of images with further columns.

    Args:
        path: a .csv or .tsv with a heading; its first column names images by id or path.

    Returns:
        The list.

    Raises:
        NearfarError: it cannot be read, or a row or a column makes no sense.
    """
    file = Path(path)
    try:
        lines, commas = list(read_rows(file, "surrogateescape")), delimiter_of(file) != ","
    except (OSError, ValueError, csv.Error) as error:
        raise NearfarError(f"{file} cannot be read as a list of columns: {reason_of(error)}.") from None
    table = [[word.strip() for word in row] for _, row in lines]
    heads = [from_windows(word) for word in table[0]] if table else []
    if len(heads) < 2:
        raise NearfarError(f"{file} needs a heading such as id,site: first ids or paths, then other columns.")
    if heads[0].lower() not in NAMES:
        refuse_no_heading(file, heads, "id,site")
        raise NearfarError(
            f"{file} begins with the column {heads[0]!r}; put ids or paths first, and call that column id or "
            "path."
        )
    if len(set(heads)) < len(heads):
        raise NearfarError(f"{file} has two columns of the same name; rename one.")
    full = table[1:]
    for (number, _), row in zip(lines[1:], full, strict=True):
        if len(row) != len(heads):
            raise NearfarError(
                f"{file}, line {number}: {counted(len(row), 'value')}, not {len(heads)}; fix the line."
            )
    seen: dict[str, list[str]] = {}
    for (number, _), row in zip(lines[1:], full, strict=True):
        if seen.setdefault(row[0], row) != row:
            raise NearfarError(f"{file}, line {number}: {row[0]} has two rows that differ; keep one.")
    columns = {
        head: [from_windows(row[at]) or None for row in full]
        for at, head in enumerate(heads)
        if at and head != "path"
    }
    for head in columns:
        check_update(head, [], {})
    return ColumnList(file, [row[0] for row in full], columns, commas)


def values_of(name: str, words: Sequence[str | None], kind: str | None, commas: bool = False) -> list[Value]:
    """Turn words into values of one kind.

    Args:
        name: the column's.
        words: None where there is none.
        kind: the column's, if it is there already; else numbers where all words are, or "nan", without
            leading zeros and of fewer digits than a float64 would round, flags where all are true or false,
            and text otherwise.
        commas: whether numbers may have a comma before their decimals.

    Returns:
        The values.

    Raises:
        NearfarError: a word is not of the kind.
    """
    given = [word for word in words if word is not None and word.lower() != "nan"]
    if kind == "number" or (kind is None and given and all(map(_is_number, given))):
        # As other programs write a number that is missing.
        words = [None if word is None or word.lower() == "nan" else word for word in words]
    given = [word for word in words if word is not None]
    if name in SETTABLE:
        kind = "text"
    if kind == "number" or (kind is None and given):
        words = _with_points(name, words, commas, new=kind is None)
        given = [word for word in words if word is not None]
    if kind is None and given:
        numbers = all(_NUMBER.fullmatch(word) and not _rounded(word) for word in given)
        kind = "number" if numbers else "flag" if all(w.lower() in _FLAGS for w in given) else "text"
    if kind == "number":
        given = [word for word in given if word not in _ENDLESS]
        bad = next((word for word in given if not _NUMBER.fullmatch(word)), None)
    else:
        bad = next((word for word in given if word.lower() not in _FLAGS), None) if kind == "flag" else None
    if bad is not None:
        raise NearfarError(f"the column {name} holds a {kind} in each row, not {bad!r}; fix the list.")
    if kind == "number":
        long = next((word for word in given if _rounded(word)), None)
        if long is not None:
            raise NearfarError(
                f"the column {name} holds numbers, which would round {long[:40]}; write such ids to a new "
                "column, which becomes text."
            )
        return [None if word is None else float(word) for word in words]
    return (
        [None if word is None else _FLAGS[word.lower()] for word in words] if kind == "flag" else list(words)
    )


def _with_points(name: str, words: Sequence[str | None], commas: bool, new: bool) -> Sequence[str | None]:
    """Write a point for the comma of decimal numbers, where all are numbers and none may be a thousand."""
    given = [word for word in words if word is not None]
    with_comma = [word for word in given if _COMMA.fullmatch(word)]
    pointed = [word.replace(",", ".") for word in given]
    if not with_comma or any(not _NUMBER.fullmatch(word) or _rounded(word) for word in pointed):
        return words
    unclear = any("." in word for word in given) or all(_THOUSANDS.fullmatch(word) for word in with_comma)
    if commas and not unclear:
        return [None if word is None else word.replace(",", ".") for word in words]
    if new:
        progress.say(
            f"the column {name} becomes text: it is not clear whether {with_comma[0]!r} is a number with "
            "decimals; for a number write it with a point, or the list with semicolons between cells."
        )
    return words


def _is_number(word: str) -> bool:
    """Tell whether a word is a number that a float64 holds, with a point or a comma before its decimals."""
    pointed = word.replace(",", ".")
    return _NUMBER.fullmatch(pointed) is not None and not _rounded(pointed)


def _rounded(word: str) -> bool:
    """Tell whether a float64 does not hold a number: it is too large, or whole and of too many digits."""
    value = abs(float(word))
    whole = _WHOLE.fullmatch(word)
    return not math.isfinite(value) or (whole is not None and (value > EXACT or abs(int(whole[1])) > EXACT))
