"""Reads a list of images from a text, CSV, TSV or Parquet file: one path a row, with or without a label."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ..core.errors import NearfarError, reason_of
from ..core.plain_path import plain_path
from .csv_files import PATH_COLUMNS, from_windows, native_paths, open_text, read_rows
from .endings import LISTS
from .folders import SUFFIXES as IMAGES
from .folders import is_image_name
from .named_files import MayBeTexts, located
from .names import Names
from .source import FileSource, class_names, clean, label_of

SUFFIXES = LISTS
_BLOCK = 1 << 16  # characters, or rows, at a time
_LABEL_COLUMNS = ("label", "class", "target", "category", "class_name")


class NoColumn(NearfarError):
    """A table has no column of the name that is looked for."""


def column_of(path: Path, names: list[str], wanted: tuple[str, ...], what: str) -> int:
    """Find the column of the paths or of the labels by its heading."""
    lower = [name.strip().lower() for name in names]
    for word in wanted:
        if lower.count(word) > 1:
            raise NearfarError(f"{path} has two columns named {word!r}; rename one.")
        if word in lower:
            return lower.index(word)
    if not any(lower):
        raise NearfarError(
            f"{path} has no column of {what}: its first line is empty; write {wanted[0]!r} there."
        )
    refuse_no_heading(path, names, "path,label")
    found = ", ".join(repr(name) for name in names[:6])
    raise NoColumn(f"{path} has no column of {what}: rename one of its columns ({found}) to {wanted[0]!r}.")


def refuse_no_heading(path: Path, names: Sequence[str], example: str) -> None:
    """Refuse a table whose first line names an image, in place of its columns."""
    first = next((name for name in names if is_image_name(os.path.basename(name.strip()))), None)
    if first is not None:
        raise NearfarError(
            f"{path} has no heading: its first line names {first}; write a line such as {example} above it."
        )


def _label_column(path: Path, names: list[str], at: int) -> int:
    """Find the labels beside the paths; of two columns the second may be called anything."""
    if len(names) == 2 and names[1 - at].strip():
        return 1 - at
    return column_of(path, names, _LABEL_COLUMNS, "labels")


def _lines(file: IO[str]) -> Iterator[str]:
    """Read lines, which end in a line feed alone; a name may hold a carriage return."""
    rest = ""
    while block := file.read(_BLOCK):
        *lines, rest = (rest + block).split("\n")
        yield from lines
    if rest:
        yield rest


def _from_text(path: Path) -> Names:
    with open_text(path, "surrogateescape") as file:
        return Names.of(line.rstrip("\r") for line in _lines(file) if line.strip())


def _from_csv(path: Path, labels: bool) -> tuple[Names, list[Any] | None]:
    rows = read_rows(path, "surrogateescape")
    _, heading = next(rows, (0, []))
    at = column_of(path, heading, (*PATH_COLUMNS, "id"), "paths")
    mark = _label_column(path, heading, at) if labels else at
    marks: list[Any] = []

    def paths() -> Iterator[str]:
        for line, row in rows:
            if len(row) <= max(at, mark):
                raise NearfarError(f"{path}, line {line}: a column is missing; fill it in.")
            if not row[at].strip():
                raise NearfarError(f"{path}, line {line}: the path is missing; fill it in.")
            if labels:
                marks.append(from_windows(row[mark]))
            yield row[at].strip()

    return Names.of(paths()), marks if labels else None


def _from_parquet(path: Path, labels: bool) -> tuple[Names, list[Any] | None]:
    import pyarrow.parquet as parquet

    names = list(parquet.read_schema(plain_path(path)).names)
    place = column_of(path, names, (*PATH_COLUMNS, "id"), "paths")
    at, mark = names[place], names[_label_column(path, names, place)] if labels else None
    table = parquet.read_table(plain_path(path), columns=[at, mark] if mark else [at])

    def paths() -> Iterator[str]:
        for start in range(0, len(table), _BLOCK):
            for item in table.column(at).slice(start, _BLOCK).to_pylist():
                if not (isinstance(item, str) and item):
                    raise NearfarError(
                        f"{path}: the column {at!r} lacks a path in some row; write paths as text."
                    )
                yield item

    return Names.of(paths()), table.column(mark).to_pylist() if mark else None


def read_words(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read a table as words: the heading first, then each row.

    Args:
        path: a .parquet, or a text that `read_rows` takes.

    Yields:
        The number of the line, or of the row of a Parquet file from 1, and its cells; bytes that are no UTF-8
        are surrogate-escaped.

    Raises:
        NearfarError, OSError, ValueError: as `read_rows` has it.
    """
    if path.suffix.lower() != ".parquet":
        yield from read_rows(path, "surrogateescape")
        return
    import pyarrow.parquet as parquet

    table = parquet.read_table(plain_path(path))
    yield 0, list(table.column_names)
    for start in range(0, len(table), _BLOCK):
        cells = [map(_word, column.to_pylist()) for column in table.slice(start, _BLOCK).columns]
        for number, row in enumerate(zip(*cells, strict=True), start + 1):
            yield number, list(row)


def _word(value: Any) -> str:
    """Write a cell of a Parquet file; a list becomes one text, and a whole number has no point."""
    if isinstance(value, (list, tuple)):
        return ";".join(map(str, value))
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return "" if value is None or value != value else str(value)


def read_list(path: Path, name: str, *, labels: bool) -> tuple[Names, list[Any] | None]:
    """Read the paths of a list, and its labels.

    Args:
        path: the list. A .txt has one path a line; the others have a column named as one of
            `PATH_COLUMNS`, or id, and, for labels, one named label, class, target, category or class_name,
            where of two columns the second may be called anything.
        name: what errors call it.
        labels: whether to read the labels.

    Returns:
        Paths as they are written, and what stands for labels; None without.

    Raises:
        NearfarError: the list cannot be read, is empty, lacks a column, or gives an image two labels.
    """
    marks: list[Any] | None = None
    try:
        if path.suffix.lower() == ".txt":
            paths = _from_text(path)
            if labels:
                raise NearfarError(f"{name} has no labels: use a .csv with the columns path and label.")
        elif path.suffix.lower() == ".parquet":
            paths, marks = _from_parquet(path, labels)
        else:
            paths, marks = _from_csv(path, labels)
    except NearfarError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's own errors are ValueErrors and OSErrors
        raise NearfarError(f"{name} cannot be read as a list of images: {reason_of(error)}.") from None
    if not paths:
        raise NearfarError(f"{name} lists no images; write one path per row.")
    if marks is not None:
        _refuse_two_labels(name, paths, marks)
    return paths, marks


def _refuse_two_labels(name: str, paths: Names, marks: Sequence[Any]) -> None:
    """Refuse a list that gives an image two labels."""
    known: dict[str, str | None] = {}
    for path, mark in zip(paths, marks, strict=True):
        label = label_of(mark)
        other = known.setdefault(os.path.normpath(path), label)
        if other != label:
            raise NearfarError(
                f"{name} gives {path} two labels, {other!r} and {label!r}; keep one row, or fine-tune with "
                "--multi-label, where an image may have several."
            )


def open_list(path: Path, *, labels: bool, suffixes: Collection[str] = IMAGES) -> FileSource:
    """Open a list of files; the files themselves are not opened yet.

    Args:
        path: the list, as `read_list` takes it. Paths are relative to its folder.
        labels: whether to read the labels.
        suffixes: endings of the files that are meant, in lower case.

    Returns:
        The source, in the list's order; ids are the paths as written, or those that `named_files.located`
        finds for them.

    Raises:
        NearfarError: the list cannot be read, is empty, lacks a column, or none of its files is there.
    """
    try:
        paths, marks = read_list(path, str(path), labels=labels)
    except NoColumn as error:
        raise MayBeTexts(str(error).removesuffix("."), "; or, ") from None
    named = None if marks is None else class_names(str(path), marks, len(paths), ids=paths)
    found = located(path, native_paths(paths, path.parent, path), suffixes)
    return FileSource(str(path), clean(found), named, path.parent, found)
