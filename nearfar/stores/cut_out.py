"""Cuts the objects of a store's rows out of the files of their images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.crops import CORNERS, Corners, Crops
from ..data.source import Source
from .base import VectorStore


def corners_of(store: VectorStore, ids: Sequence[str]) -> Corners | None:
    """Read the boxes of rows that are objects.

    Args:
        store: of images, of objects, or of both.
        ids: of n rows.

    Returns:
        (n, 4) left, top, right and bottom in pixels of the image, NaN for a row that is a whole image; None
        where all are.
    """
    columns = store.columns
    if not len(ids) or any(columns.get(name) != "number" for name in CORNERS):
        return None
    table = store.rows(list(CORNERS), ids=list(ids))
    found = np.stack(
        [table[name].combine_chunks().cast("float64").to_numpy(zero_copy_only=False) for name in CORNERS], 1
    )
    found[np.isnan(found).any(1)] = np.nan
    return None if np.isnan(found).all() else found


def cut_out(store: VectorStore, ids: Sequence[str], files: Source, paths: Sequence[str]) -> Source:
    """Give the examples that rows of a store were made of.

    Args:
        store: the store.
        ids: of n rows.
        files: the n files of their images.
        paths: of these n files.

    Returns:
        The files themselves where the rows are images; else each row's object, cut out of its file.
    """
    corners = corners_of(store, ids)
    if corners is None:
        return files
    first: dict[str, int] = {}  # one image is read once for its objects
    photo = np.array([first.setdefault(path, row) for row, path in enumerate(paths)], np.int64)
    return Crops(files.name, list(ids), None, files, photo, corners, np.zeros((len(ids), 2), np.int64))
