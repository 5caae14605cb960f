"""Reads images that have several labels each, or none: from a cell of labels, a row or a column a label."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core import progress
from ..core.errors import NearfarError, reason_of
from ..core.text import counted
from ..data.csv_files import PATH_COLUMNS, from_windows
from ..data.lists import SUFFIXES, read_words
from ..data.named_files import look_up, place_of
from ..data.names import taken
from ..data.open import open_data
from ..data.source import FileSource, Source, label_of, places_of
from ..data.subset import subset_of

LABELS = ("labels", "label", "class", "classes", "target", "tags")
SEPARATOR = re.compile(r"\s*[;|,]\s*")
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def open_many(data: Any, kind: str, file: str | Path | None) -> tuple[Source, list[tuple[str, ...]]]:
    """Open images and the labels of each.

    Args:
        data: a list with labels; or any images, with `file`.
        kind: of data that is expected.
        file: a list to take the labels from, if that is not `data`.

    Returns:
        The images without labels of their own, and a tuple of labels for each, sorted; empty for none.

    Raises:
        NearfarError: there is no such list, or an image is not in it.
    """
    named = data if file is None else file
    if not isinstance(named, (str, Path)) or Path(named).suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise NearfarError(
            f"--multi-label needs a list of images and their labels, and {named} is none; give a .csv with "
            "the columns path and labels, such as 'cat;dog', here or with --labels."
        )
    listed = read_many(Path(named))
    source = _each_once(open_data(data, expected=kind))
    found = look_up(listed, source.ids, places_of(source))
    missing = [name for name, labels in zip(source.ids, found, strict=True) if labels is None]
    if missing:
        raise NearfarError(
            f"{named} has no labels for {len(missing):,} of the {len(source):,} images of {source.name}, "
            f"such as {missing[0]!r}; add a row for each."
        )
    return source, [labels for labels in found if labels is not None]


def _each_once(source: Source) -> Source:
    """Leave out images that a list has named before, as it does where each row holds one label."""
    marks: dict[str, int] = {}
    for row, place in enumerate(places_of(source) or source.ids):
        marks.setdefault(place, row)
    if len(marks) == len(source):
        return source
    rows = np.fromiter(marks.values(), np.int64)
    progress.say(f"{source.name}: {len(source):,} rows are the labels of {counted(len(rows), 'image')}")
    if isinstance(source, FileSource):
        return replace(source, ids=taken(source.ids, rows), paths=taken(source.paths, rows))
    return subset_of(source, rows)


def read_many(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the labels of each image of a list.

    Args:
        path: a .csv, .tsv or .parquet: a column of paths, and one of labels with ; | or a comma between them,
            or a row for each label of an image; or, without such a column, a column of 0 and 1 for each
            label.

    Returns:
        Name, and place of the file, to its labels.

    Raises:
        NearfarError: it cannot be read so.
    """
    heads, rows = _table(path)
    lower = [head.strip().lower() for head in heads]
    at = next((lower.index(word) for word in (*PATH_COLUMNS, "id") if word in lower), None)
    if at is None:
        raise NearfarError(f"{path} has no column of paths; name one of its columns 'path'.")
    mark = next((lower.index(word) for word in LABELS if word in lower), None)
    known: dict[str, set[str]] = {}
    places: dict[str, str] = {}
    several: set[str] = set()  # places with a row that does not hold one label
    for number, row in rows:
        if len(row) != len(heads):
            raise NearfarError(
                f"{path}, line {number}: {counted(len(row), 'cell')}, not {len(heads)}; fix the line."
            )
        if mark is not None:
            labels = {word for each in SEPARATOR.split(from_windows(row[mark])) if (word := label_of(each))}
        else:
            labels = {
                from_windows(heads[k]).strip()
                for k in range(len(heads))
                if k != at and _flag(path, number, heads[k], row[k])
            }
        name = row[at].strip()
        place = places[name] = place_of(path.parent, name)
        own = known.setdefault(place, labels)
        if mark is None or len(labels) != 1:
            several.add(place)
        if own != labels and place in several:
            raise NearfarError(
                f"{path}, line {number}: {name} has two rows whose labels differ; write all its labels "
                "into one, or one label into each."
            )
        own |= labels
    found = {name: tuple(sorted(known[place])) for name, place in places.items()}
    found |= {place: tuple(sorted(labels)) for place, labels in known.items()}
    if not any(found.values()):
        raise NearfarError(f"{path} has no label in any row; name the column of labels 'labels'.")
    return found


def _flag(path: Path, number: int, head: str, cell: str) -> bool:
    if cell.strip().lower() not in FLAGS:
        raise NearfarError(
            f"{path}, line {number}: {head} is {cell!r}; without a column 'labels' the others hold 0 or 1."
        )
    return FLAGS[cell.strip().lower()]


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a list's heading and its rows of words."""
    if path.suffix.lower() not in SUFFIXES:
        raise NearfarError(f"{path} is no list; give a .csv, .tsv or .parquet.")
    try:
        rows = list(read_words(path))
    except (OSError, ValueError, csv.Error) as error:
        raise NearfarError(f"{path} cannot be read as a list: {reason_of(error)}.") from None
    if not rows:
        raise NearfarError(f"{path} is empty; write a line of headings, and a row for each image.")
    return rows[0][1], rows[1:]
