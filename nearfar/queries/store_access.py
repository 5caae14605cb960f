"""What the store commands share: open a store, read labels, load its run, write the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import NearfarError
from ..data.dataset import class_numbers
from ..features.extract import fingerprint
from ..stores import VectorStore, open_store
from ..training.run import Run, load
from .listing import Listing, check_name, write

StoreLike = VectorStore | str | Path
UNKNOWN = -1  # the class number of a row without a label


def open_for_query(store: StoreLike, out: str | Path | None = None) -> VectorStore:
    """Open a store, unless it is open. Refuse an output file that cannot be written, before any work.

    Args:
        store: a store or its address.
        out: the output file, or None.
    """
    if out is not None:
        check_name(Path(out))
    return open_store(store) if isinstance(store, (str, Path)) else store


def check_limit(limit: int) -> int:
    """Refuse a limit below 1.

    Args:
        limit: how many images to list.
    """
    if limit < 1:
        raise NearfarError(f"--limit is {limit}; give 1 or more.")
    return limit


def write_result(listing: Listing, store: VectorStore, out: str | Path | None) -> Listing:
    """Write a listing to its output file, if there is one, and return it.

    Args:
        listing: what was found.
        store: has the thumbnails.
        out: a .csv, .json or .png file, or None.
    """
    if out is not None:
        write(listing, Path(out), store.thumbnails)
    return listing


def run_of(store: VectorStore, run: Run | str | Path | None) -> Run:
    """Load the run whose vectors a store holds.

    Args:
        store: the store.
        run: the run or its folder, if it is no longer where it was when the store was made.

    Raises:
        NearfarError: it is not there, or is another run.
    """
    if run is None and not (store.info.run and Path(store.info.run).is_dir()):
        raise NearfarError(
            f"the run that made {store.address} is no longer in {store.info.run or 'any known folder'}; "
            "give its folder with --run."
        )
    found = run if isinstance(run, Run) else load(run or store.info.run)
    if fingerprint(found.encoder) != store.info.encoder:
        raise NearfarError(
            f"{found.path} is not the run that made {store.address}; its vectors cannot be compared: "
            "name the right one with --run."
        )
    return found


def read_labels(
    store: VectorStore, column: str, ids: list[str]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Read a column as labels.

    Args:
        store: the store.
        column: its name; numbers and flags become words.
        ids: the rows.

    Returns:
        (n,) int64, UNKNOWN where the column is empty; and the names that the others point to.

    Raises:
        NearfarError: there is no such column.
    """
    words = [_word(value) for value in store.rows([column], ids=ids).column(column).to_pylist()]
    known = np.array([word is not None for word in words], np.bool_)
    numbers, names = class_numbers([word for word in words if word is not None])
    labels = np.full(len(ids), UNKNOWN, np.int64)
    if numbers is not None:
        labels[known] = numbers
    return labels, names


def _word(value: Any) -> str | None:
    """Write a value as a class's name; empty text is no label."""
    if value is None or value == "":
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)
