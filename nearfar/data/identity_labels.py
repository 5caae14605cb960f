"""Finds who is on each image: identity, camera, and whether it is a query or of the gallery."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import NearfarError, reason_of
from ..core.text import counted
from .csv_files import PATH_COLUMNS, from_windows
from .endings import LISTS
from .labels import of_folders, open_labelled
from .lists import read_words
from .named_files import look_up, place_of
from .open import open_data
from .source import FileSource, Source, places_of
from .subset import subset_of

USUAL = re.compile(r"^(?P<identity>-?\d+)_c(?:am)?(?P<camera>\d+)", re.IGNORECASE)
JUNK = "-1"  # the identity of a detector's mistakes, in Market-1501 and those like it
QUERIES, GALLERIES = ("query", "queries", "probe"), ("gallery", "bounding_box_test", "test")
COLUMNS = {
    "path": PATH_COLUMNS,
    "identity": ("identity", "label", "class", "individual", "pid"),
    "camera": ("camera", "cam", "camid"),
    "role": ("role", "set", "split"),
}


@dataclass(frozen=True)
class IdentityLabels:
    """Images of individuals; `identities`, `cameras` and `roles` have one entry an image.

    A camera that is not known is "". A role is "query", "gallery" or, where there are no roles, "".
    """

    source: Source
    identities: tuple[str, ...]
    cameras: tuple[str, ...]
    roles: tuple[str, ...]
    notes: tuple[str, ...] = ()


Entry = tuple[str, str, str]


def open_identities(
    data: Any, *, labels: str | Path | None = None, label_level: int | None = None, pattern: str | None = None
) -> IdentityLabels:
    """Open images of individuals.

    In this order: a list with the columns path and identity and, if there are such, camera and role; file
    names that `pattern` matches; names such as 0002_c1s1_000451_03.jpg; folders.

    Args:
        data: a folder, a list, or (images, identities).
        labels: a list for a folder of images.
        label_level: which folder on the way to an image names its identity.
        pattern: a regular expression with the group identity, and perhaps camera, for the images' paths.

    Returns:
        The images, those without an identity left out.

    Raises:
        NearfarError: they cannot be opened, or have no identities.
    """
    if sum(value is not None for value in (labels, label_level, pattern)) > 1:
        raise NearfarError("--labels, --label-level and --name-pattern exclude each other; give one of them.")
    if isinstance(data, (str, Path)) and Path(data).suffix.lower() in LISTS and labels is None:
        labels = data
    if not isinstance(data, (str, Path)):
        found = open_labelled(data, "images", label_level=label_level, labels=labels)
        none = ("",) * len(found)
        return IdentityLabels(found, found.labels or (), none, none)
    source = open_data(data, expected="images")
    if labels is not None:
        entries = _from_list(source, Path(labels))
    else:
        entries = _from_names(source, label_level, pattern)
    return _kept(source, entries)


def gallery_of(labels: IdentityLabels) -> IdentityLabels:
    """Leave out the queries, which are looked for and not looked among.

    Args:
        labels: images of individuals.

    Raises:
        NearfarError: all are queries.
    """
    kept = [row for row, role in enumerate(labels.roles) if role != "query"]
    left = len(labels.roles) - len(kept)
    if not left:
        return labels
    if not kept:
        raise NearfarError(f"{labels.source.name} holds queries alone; name images of the gallery.")
    each = labels.identities, labels.cameras, labels.roles
    who, cameras, roles = (tuple(some[row] for row in kept) for some in each)
    note = f"{counted(left, 'query is')} left out of the gallery {labels.source.name}"
    return IdentityLabels(_some(labels.source, kept), who, cameras, roles, (*labels.notes, note))


def _from_names(source: Source, label_level: int | None, pattern: str | None) -> list[Entry]:
    """Read identities and cameras from paths, and roles from the first folders."""
    first = [name.split("/")[0].lower() if "/" in name else "" for name in source.ids]
    split = any(word in QUERIES for word in first)
    roles = [_role(word) if split else "" for word in first]
    if pattern is not None:
        found = [_matched(_compiled(pattern), name, name) for name in source.ids]
        lost = next((name for name, one in zip(source.ids, found, strict=True) if one is None), None)
        if lost is not None:
            raise NearfarError(f"--name-pattern {pattern!r} does not match {lost!r}; write one that does.")
    else:
        found = [_matched(USUAL, name.rsplit("/", 1)[-1], name) for name in source.ids]
    if label_level is None and all(one is not None for one in found):
        pairs = [one for one in found if one is not None]
    else:
        level = label_level
        if level is None and split and all(name.count("/") > 1 for name in source.ids):
            level = -1
        words = of_folders(source.name, source.ids, level)
        pairs = [(word, one[1] if one else "") for word, one in zip(words, found, strict=True)]
        if split and any(word.lower() in (*QUERIES, *GALLERIES) for word in words):
            raise NearfarError(
                f"{source.name} has a folder of queries, and nothing tells who is on its images; put them in "
                "a folder for each individual, or give --name-pattern or --labels."
            )
    return [(who, camera, role) for (who, camera), role in zip(pairs, roles, strict=True)]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise NearfarError(f"--name-pattern {pattern!r} is no regular expression: {error}.") from None
    if "identity" not in found.groupindex:
        raise NearfarError(
            f"--name-pattern {pattern!r} has no group for the identity; write for example "
            r"'(?P<identity>\d+)_(?P<camera>\d+)'."
        )
    return found


def _matched(pattern: re.Pattern[str], text: str, name: str) -> tuple[str, str] | None:
    """Find identity and camera in a name."""
    found = pattern.search(text)
    if found is None:
        return None
    words = found.groupdict()
    return words["identity"] or "", words.get("camera") or ""


def _role(word: str) -> str:
    """Name the role of a folder or of a cell; "out" for any other word."""
    if word in QUERIES:
        return "query"
    return "gallery" if word in GALLERIES else "out"


def _from_list(source: Source, file: Path) -> list[Entry]:
    """Look each image up in a list; see `named_files.look_up`."""
    found = look_up(_listed(file), source.ids, places_of(source))
    missing = [name for name, entry in zip(source.ids, found, strict=True) if entry is None]
    if missing:
        raise NearfarError(
            f"{file} has no identity for {len(missing):,} of the {len(source):,} images of {source.name}, "
            f"such as {missing[0]!r}; add a row for each."
        )
    return [entry for entry in found if entry is not None]


def _listed(file: Path) -> Mapping[str, Entry]:
    """Read a list: path to identity, camera and role; a path that leads to a file by its real path too."""
    try:
        rows = list(read_words(file))
    except (OSError, ValueError, csv.Error) as error:
        raise NearfarError(f"{file} cannot be read as a list of identities: {reason_of(error)}.") from None
    heads = [word.strip().lower() for word in rows[0][1]] if rows else []
    at = {
        name: next((heads.index(word) for word in words if word in heads), None)
        for name, words in COLUMNS.items()
    }
    path, identity, camera, role = (at[name] for name in COLUMNS)
    if path is None or identity is None:
        raise NearfarError(
            f"{file} needs a column of images and one of identities; name them 'path' and 'identity' in line "
            "1."
        )
    found: dict[str, Entry] = {}
    for number, row in rows[1:]:
        cells = [word.strip() for word in row] + [""] * (len(heads) - len(row))
        if not cells[path] or not cells[identity]:
            raise NearfarError(f"{file}, line {number}: an image or its identity is missing; fill it in.")
        word = cells[role].lower() if role is not None else ""
        if role is not None and _role(word) == "out":
            raise NearfarError(f"{file}, line {number}: the role {word!r} is neither query nor gallery.")
        entry = (
            unicodedata.normalize("NFC", from_windows(cells[identity])),
            from_windows(cells[camera]) if camera is not None else "",
            _role(word) if role is not None else "",
        )
        place = place_of(file.parent, cells[path])
        for key in {cells[path], *([place] if os.path.exists(place) else [])}:
            if found.setdefault(key, entry) != entry:
                raise NearfarError(f"{file}, line {number}: {cells[path]} is listed twice; keep one row.")
    return found


def _kept(source: Source, entries: Sequence[Entry]) -> IdentityLabels:
    """Leave out images of no role and of no individual."""
    kept = [
        row for row, (who, _, role) in enumerate(entries) if role != "out" and (who != JUNK and who != "")
    ]
    if not kept:
        raise NearfarError(f"{source.name} has no image with an identity; see docs/reidentify.md.")
    notes: tuple[str, ...] = ()
    if len(kept) < len(entries):
        left = len(entries) - len(kept)
        notes = (
            f"{counted(left, 'image is')} left out of {source.name}: of no individual, query or gallery",
        )
        source = _some(source, kept)
    who, cameras, roles = zip(*(entries[row] for row in kept), strict=True)
    return IdentityLabels(source, who, cameras, roles, notes)


def _some(source: Source, rows: Sequence[int]) -> Source:
    """Keep some of the images of a folder, a list or an address."""
    if not isinstance(source, FileSource):
        return subset_of(source, np.array(rows, np.int64))
    ids, paths = ([some[row] for row in rows] for some in (source.ids, source.paths))
    return replace(source, ids=ids, paths=paths)
