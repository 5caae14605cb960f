"""Reads lists of boxes, as `nearfar predict` writes them or people label them, as examples of their own."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import NearfarError, reason_of
from ..core.plain_path import from_home, plain_path
from ..core.progress import say
from ..core.text import counted
from . import lists
from .box_labels import open_box_labels
from .crops import CORNERS, Crops, object_id
from .csv_files import PATH_COLUMNS, from_windows, read_rows
from .named_files import look_up, place_of
from .open import open_data
from .source import Source, clean, label_of, places_of

TABLES = (".csv", ".tsv", ".parquet")
DIGITS = 2  # of corners in pixels, as predictions have them
SCORE, SIDES = "score", ("width", "height")
_CLASSES = ("class", "label", "category", "class_name")


@dataclass(frozen=True)
class _Listed:
    """One object as a list has it: its class, its corners in pixels, its score, and its image's sides."""

    name: str
    corners: tuple[float, ...]
    score: float = math.nan
    sides: tuple[int, int] = (0, 0)


def open_boxes(data: Any, boxes: str | Path) -> Crops:
    """Open objects on images.

    Args:
        data: images, as `sources.open_source` takes them; a folder where `boxes` are label files.
        boxes: a .csv, .tsv or .parquet with path, class, x0, y0, x1, y1 and, if there are, score, width and
            height, all in pixels; or a COCO file, a .yaml or a folder as `open_box_labels` takes them.

    Returns:
        The objects; their labels are the classes. What is left out is said.

    Raises:
        NearfarError: the list cannot be read, or names none of the images.
    """
    path = from_home(boxes)
    if not path.exists():
        raise NearfarError(
            f"there is no --boxes {path}; give what nearfar predict of a detection wrote, a COCO file, or a "
            "folder of .xml or .txt files."
        )
    if path.suffix.lower() in TABLES:
        return _of_table(open_data(data, expected="images"), path)
    if not isinstance(data, str | os.PathLike):
        raise NearfarError(
            f"{path} belongs to a folder of images; name that folder, or give a .csv of boxes."
        )
    return _of_labels(data, path)


def _of_labels(data: str | os.PathLike[str], path: Path) -> Crops:
    """Take the boxes of label files."""
    try:
        found = open_box_labels(os.fspath(data), path)
    except NearfarError as error:  # which names the flag of a fine-tuning
        raise NearfarError(str(error).replace("--labels", "--boxes")) from None
    objects, crowds = [], 0
    for one in found.boxes:
        sides = np.array([one.width, one.height, one.width, one.height], np.float64)
        crowds += int(one.crowd.sum())
        scores = np.full(len(one.labels), np.nan) if one.scores is None else one.scores
        objects.append(
            [
                _Listed(found.classes[label], tuple((sides * box).tolist()), float(score))
                for label, box, score, crowd in zip(one.labels, one.boxes, scores, one.crowd, strict=True)
                if not crowd
            ]
        )
    for note in found.notes:
        say(note)
    if crowds:
        say(f"{counted(crowds, 'box')} around many objects at once: left out.")
    return _crops(found.source, objects, str(path), found.source.ids)


def _of_table(photos: Source, path: Path) -> Crops:
    """Take the boxes of a table."""
    listed: dict[str, list[_Listed]] = {}
    for name, one in _rows(path):
        own = listed.setdefault(os.path.normpath(name).replace(os.sep, "/"), [])
        own += [] if one is None else [one]
    if not listed:
        raise NearfarError(f"{path} has no row; give a list with a box a row.")
    _refuse_twins(photos)
    names = {name: name for name in listed}
    places = places_of(photos)
    if places:
        names |= {place_of(path.parent, name): name for name in listed}
    found = look_up(names, photos.ids, places)
    used = {name for name in found if name is not None}
    if not used:
        raise NearfarError(
            f"{path} names no image of {photos.name}: it has {next(iter(listed))!r}, the images are named "
            f"such as {photos.ids[0]!r}; give the images that the boxes are of."
        )
    lost = [name for name in listed if name not in used]
    if lost:
        what = counted(len(lost), "image")
        say(f"{path} names {what} not in {photos.name}, such as {lost[0]}; their boxes are left out.")
    objects = [[] if name is None else listed[name] for name in found]
    there = [one for one, name in zip(photos.ids, found, strict=True) if name is not None]
    return _crops(photos, objects, str(path), there)


def _refuse_twins(photos: Source) -> None:
    """Refuse images of one id, whose objects would have one id too."""
    if len(set(photos.ids)) < len(photos.ids):
        twice = Counter(photos.ids).most_common(1)[0][0]
        raise NearfarError(f"{photos.name} has the image {twice!r} twice; name each image once.")


def _crops(photos: Source, objects: Sequence[Sequence[_Listed]], name: str, listed: Sequence[str]) -> Crops:
    """Put objects, a list an image, one after the other."""
    each = [(row, at, one) for row, some in enumerate(objects) for at, one in enumerate(some)]
    if not each:
        raise NearfarError(
            f"{name} has no box with a class on the images of {photos.name}; there is nothing to cut out."
        )
    # As predictions round them, so that a list in another format means the same boxes; and no -0.
    corners = np.round([one.corners for _, _, one in each], DIGITS) + 0.0
    columns: dict[str, list[float | None]] = {
        word: corners[:, at].tolist() for at, word in enumerate(CORNERS)
    }
    scores = [None if math.isnan(one.score) else one.score for _, _, one in each]
    if any(score is not None for score in scores):
        columns[SCORE] = scores
    return Crops(
        photos.name,
        clean(object_id(photos.ids[row], at) for row, at, _ in each),
        tuple(one.name for _, _, one in each),
        photos,
        np.array([row for row, _, _ in each], np.int64),
        corners,
        np.array([one.sides for _, _, one in each], np.int64),
        frozenset(listed),
        columns=columns,
    )


def _rows(path: Path) -> Iterator[tuple[str, _Listed | None]]:
    """Read a table: the image that each row is about, and its object if it has one."""
    if path.suffix.lower() == ".parquet":
        heads, lines = _parquet(path)
    else:
        heads, lines = _csv(path)
    lower = [head.strip().lower() for head in heads]
    at = lists.column_of(path, heads, (*PATH_COLUMNS, "id"), "paths")
    kind = next((lower.index(word) for word in _CLASSES if word in lower), None)
    lacking = [word for word in CORNERS if word not in lower]
    if kind is None or lacking:
        raise NearfarError(
            f"{path} has no column {'class' if kind is None else lacking[0]!r}; a list of boxes has path, "
            "class, x0, y0, x1 and y1 in pixels, as nearfar predict of a detection writes it."
        )
    places = [lower.index(word) for word in CORNERS]
    rest = {word: lower.index(word) for word in (SCORE, *SIDES) if word in lower}
    for where, cells in lines:
        if len(cells) <= max(at, kind, *places):
            raise NearfarError(f"{path}, {where}: a column is missing; fill it in.")
        photo = str(cells[at] or "").strip()
        if not photo:
            raise NearfarError(f"{path}, {where}: no image is named; fill it in.")
        name = label_of(cells[kind])
        if name is None:
            yield photo, None
            continue
        corners = tuple(_number(path, where, heads[place], cells[place]) for place in places)
        more = {
            word: _number(path, where, heads[place], cells[place])
            for word, place in rest.items()
            if place < len(cells) and cells[place] not in (None, "")
        }
        sides = (int(more.get(SIDES[0], 0)), int(more.get(SIDES[1], 0)))
        yield photo, _Listed(name, corners, more.get(SCORE, math.nan), sides)


def _csv(path: Path) -> tuple[list[str], Iterator[tuple[str, Sequence[Any]]]]:
    """Read a text table: its heading, and its rows with where they are."""
    try:
        lines = read_rows(path, "surrogateescape")
        rows = [(number, [from_windows(cell) for cell in row]) for number, row in lines]
    except (OSError, ValueError, csv.Error) as error:
        raise NearfarError(f"{path} cannot be read as a list of boxes: {reason_of(error)}.") from None
    heads = rows[0][1] if rows else [""]
    return heads, ((f"line {number}", row) for number, row in rows[1:])


def _parquet(path: Path) -> tuple[list[str], Iterator[tuple[str, Sequence[Any]]]]:
    """Read a Parquet table: its heading, and its rows with where they are."""
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(plain_path(path))
    except (OSError, ValueError) as error:
        reason = reason_of(error).splitlines()[0]
        raise NearfarError(f"{path} cannot be read as Parquet ({reason}); write it again.") from None
    cells = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return list(table.column_names), ((f"row {number}", row) for number, row in enumerate(cells, start=1))


def _number(path: Path, where: str, head: str, cell: Any) -> float:
    """Read a number of pixels, or a score."""
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise NearfarError(f"{path}, {where}: {head.strip()} is {str(cell)[:40]!r}; write a number.")
    return value
