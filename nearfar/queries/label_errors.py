"""The verb `label_errors`: the labels that are most likely wrong, each with a better one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import label_errors as doubting
from ..core.errors import NearfarError
from ..core.text import percent
from .listing import Listing
from .store_access import UNKNOWN, Address, counted, handed, labels_of, opened


def label_errors(
    store: Address,
    *,
    column: str = "label",
    where: str | None = None,
    count: int = 100,
    seed: int = 0,
    out: str | Path | None = None,
) -> Listing:
    """List the labels that are most likely wrong, each with a better one.

    Args:
        store: a vector store or its address.
        column: the column with the labels; images without one are left out.
        where: a condition on columns.
        count: labels to list.
        seed: names the folds.
        out: a .csv, .json or .png file to write.

    Returns:
        The images, the most doubtful first.

    Raises:
        NearfarError: there are too few labels, or no such column.
    """
    place = opened(store, out)
    ids, x = place.vectors(where)
    labels, names = labels_of(place, column, ids)
    rows = np.flatnonzero(labels != UNKNOWN)
    if not len(rows):
        raise NearfarError(
            f"no image of {place.address} has a label in {column!r}; name another column with --column."
        )
    found = doubting.label_errors(x[rows], labels[rows], names, seed=seed)
    first = found.order[: counted(count)]
    columns: dict[str, Any] = {
        "suggested": [names[at] for at in found.suggested[first]],
        column: [names[at] for at in found.labels[first]],
        "doubt": found.doubt[first].tolist(),
    }
    lines = (
        f"Confident learning takes {found.estimate:,} of {len(rows):,} labels for wrong. It trusts a "
        f"classifier that gives {percent(found.accuracy)} of the labels, unseen: the lower that is, the more "
        "of these are its own mistakes.",
    )
    facts = {"labels": len(rows), "estimate": found.estimate, "accuracy": found.accuracy}
    listing = Listing(
        "labels, the most doubtful first", tuple(ids[rows[at]] for at in first), columns, lines, facts
    )
    return handed(listing, place, out)
