"""The verb `suggest`: which images to label next."""

from __future__ import annotations

from pathlib import Path

from ..analysis import active_learning as choosing
from ..core.errors import NearfarError
from .listing import Listing
from .store_access import UNKNOWN, Address, counted, handed, labels_of, opened


def suggest(
    store: Address,
    *,
    count: int = 100,
    column: str = "label",
    way: str = "auto",
    where: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Listing:
    """Suggest which images to label next.

    Args:
        store: a vector store or its address.
        count: images wanted.
        column: the column with the labels there are; empty where there is none yet.
        way: "typical", "margin", "k-center", "random", or "auto", which goes by the number of labels.
        where: a condition on columns.
        seed: names the draws.
        out: a .csv, .json or .png file to write.

    Returns:
        Images without a label, in the order in which to label them.

    Raises:
        NearfarError: all are labelled, or there is no such way or column.
    """
    place = opened(store, out)
    ids, x = place.vectors(where)
    if not ids:
        raise NearfarError(f"{place.address} has no image to label; look at the condition of --where.")
    labels, names = labels_of(place, column, ids)
    found = choosing.suggest(x, labels, counted(count), way=way, seed=seed)
    known = int((labels != UNKNOWN).sum())
    switch = choosing.ENOUGH * max(2, len(names))
    lines = (
        f"{known:,} of {len(ids):,} images have a label, of {len(names)} classes. These were chosen by way "
        f"{found.way}; from {choosing.ENOUGH} labels a class on ({switch:,} here), auto chooses by margin.",
    )
    chosen = tuple(ids[row] for row in found.rows)
    facts = {"labels": known, "images": len(ids), "way": found.way}
    columns = {"turn": list(range(1, len(chosen) + 1))}
    return handed(Listing("label these next, in this order", chosen, columns, lines, facts), place, out)
