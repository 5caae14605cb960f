"""Groups of related images, such as a patient's: read from a list, kept on one side, or paired as views."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.errors import NearfarError, reason_of
from .csv_files import PATH_COLUMNS, from_windows
from .lists import read_words
from .named_files import look_up, place_of
from .source import Source, places_of

Rows = npt.NDArray[np.int64]
NAMES = (*PATH_COLUMNS, "id")
GROUPS = ("group", "patient", "subject", "speaker", "burst")
FOLDERS = "folders"  # what stands for a list where each folder is a group


@dataclass(frozen=True)
class GroupList:
    """Which group each image belongs to.

    Attributes:
        path: the list they were read from.
        of: name to group; a name that leads to a file from the list's folder is there by its real path too.
    """

    path: str
    of: Mapping[str, str]

    def numbers(self, sides: Sequence[tuple[Source, Sequence[str]]]) -> list[Rows]:
        """Number the groups of several collections' images, the same in all.

        An image is looked up as by `named_files.look_up`.

        Args:
            sides: each collection, and the names of the images wanted of it.

        Returns:
            (n,) int64 a collection.

        Raises:
            NearfarError: an image is not listed, or a name stands for images of two collections.
        """
        order: dict[str, int] = {}
        owner: dict[str, int] = {}
        found = []
        for side, (source, ids) in enumerate(sides):
            places = dict(zip(source.ids, places_of(source), strict=False))
            keyed = {key: (key, group) for key, group in self.of.items()}
            own = [places[name] for name in ids] if places else []
            rows = []
            for row, entry in enumerate(look_up(keyed, ids, own)):
                if entry is None:
                    raise NearfarError(
                        f"{self.path} has no group for {ids[row]} of {source.name}; add a line for it."
                    )
                key, group = entry
                if not os.path.isabs(key) and owner.setdefault(key, side) != side:
                    raise NearfarError(
                        f"{self.path} lists {key}, which is a training image and a test image; "
                        "write paths relative to the folder of the list."
                    )
                rows.append(order.setdefault(group, len(order)))
            found.append(np.array(rows, np.int64))
        return found


def read_groups(path: str | Path) -> GroupList:
    """Read which group each image belongs to.

    Args:
        path: a .csv, .tsv or .parquet with a heading: a column named path, file, image, filename or id, and
            one named group, patient, subject, speaker or burst, of several the first of these; of two columns
            the second may be called anything.

    Returns:
        The groups.

    Raises:
        NearfarError: the list cannot be read, lacks a column, or gives an image two groups.
    """
    file = Path(path)
    try:
        rows = list(read_words(file))
    except (OSError, ValueError, csv.Error) as error:
        raise NearfarError(f"{file} cannot be read as a list of groups: {reason_of(error)}.") from None
    heads = [word.strip().lower() for word in rows[0][1]] if rows else []
    name = next((heads.index(word) for word in NAMES if word in heads), None)
    group = next((heads.index(word) for word in GROUPS if word in heads), None)
    if group is None and name is not None and len(heads) == 2:
        group = 1 - name
    if name is None or group is None:
        raise NearfarError(
            f"{file} needs a column of images and one of groups; name them 'path' and 'group' in line 1."
        )
    found: dict[str, str] = {}
    for number, row in rows[1:]:
        row = [word.strip() for word in row]
        if len(row) <= max(name, group) or not row[name] or not row[group]:
            raise NearfarError(f"{file}, line {number}: an image or its group is missing; fill it in.")
        place, row[group] = place_of(file.parent, row[name]), from_windows(row[group])
        for key in {row[name], *([place] if os.path.exists(place) else [])}:
            if found.setdefault(key, row[group]) != row[group]:
                raise NearfarError(
                    f"{file}, line {number}: {row[name]} is in two groups, {found[key]!r} and "
                    f"{row[group]!r}; keep one."
                )
    return GroupList(str(path), found)


def number_groups(words: str, source: Source, ids: Sequence[str]) -> Rows:
    """Number the groups of a collection's images.

    Args:
        words: "folders", for a group a folder; or a list for `read_groups`.
        source: the collection.
        ids: names of its images.

    Returns:
        (n,) int64.

    Raises:
        NearfarError: the list cannot be read, or lacks an image.
    """
    if words != FOLDERS:
        return read_groups(words).numbers([(source, ids)])[0]
    order: dict[str, int] = {}
    return np.array([order.setdefault(os.path.dirname(name), len(order)) for name in ids], np.int64)


class Partners:
    """Chooses for each image another one of its group, each as often; an image alone in its group, itself."""

    def __init__(self, groups: Rows) -> None:
        """Sort the images by group.

        Args:
            groups: (n,) int64, the group of each.
        """
        self.groups = groups
        self._order = np.argsort(groups, kind="stable")
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(groups))
        self._start = np.searchsorted(groups[self._order], groups)  # (n,) where each image's group begins
        self._count = np.bincount(groups)[groups]

    def of(self, rows: Rows, key: int) -> Rows:
        """Choose.

        Args:
            rows: (n,) int64, of images.
            key: names the draw.

        Returns:
            (n,) int64, rows of their partners.
        """
        count, start = self._count[rows], self._start[rows]
        u = rng.uniform(key, rows, 1)[:, 0].astype(np.float64)
        shift = 1 + (u * (count - 1)).astype(np.int64)
        return self._order[start + (self._place[rows] - start + shift) % count]

    def share_alone(self) -> float:
        """Tell which share of the images is alone in its group."""
        return float((self._count == 1).mean())
