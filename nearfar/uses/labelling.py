"""The verbs `label_errors`, `classes` and `suggest`: labels to put right, to give, and to ask for next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.sources import open_source
from ..data.store import class_numbers
from ..errors import NearfarError
from ..features import Vectors
from ..run import Run
from ..scores import percent
from . import classes as naming
from . import label_errors as doubting
from . import suggest as choosing
from .label_errors import Rows
from .opened import UNKNOWN, Address, counted, encoder_of, handed, labels_of, opened
from .showing import ACROSS, Listing


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


def classes(
    store: Address,
    *,
    examples: Any,
    propagate: bool = False,
    reject: float = 0.05,
    save: str | None = None,
    where: str | None = None,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
) -> Listing:
    """Name the class of each image, by a few examples of each class and without training.

    Args:
        store: a vector store or its address.
        examples: labelled images, such as a folder with a folder of images for each class.
        propagate: whether names spread over a graph of neighbours instead of in one jump.
        reject: the share of images of these classes that may be turned away as none of them; 0 turns none
            away.
        save: a column to write the names to; it is left empty for images that are none of these.
        where: a condition on columns.
        out: a .csv, .json or .png file to write.
        run: the run that made the store, if it has moved.

    Returns:
        The images, the most alike to the examples first: ten of each class, ten that are none of these, and
        so on.

    Raises:
        NearfarError: a class has no example, or an example cannot be used.
    """
    place = opened(store, out)
    source = open_source(examples, labels=True)
    numbers, names = class_numbers(source.labels)
    assert numbers is not None
    shown = encoder_of(place, run).encode(source)
    ids, x = place.vectors(where)
    if not ids:
        raise NearfarError(f"{place.address} has no image to name; look at the condition of --where.")
    found = naming.name(x, shown, numbers, names, reject=reject, propagate=propagate)
    words = [names[at] if at != naming.NONE else None for at in found.answer]
    if save is not None:
        place.set(save, dict(zip(ids, words, strict=True)))
    order = _in_turn(np.where(found.answer == naming.NONE, len(names), found.answer), found.likeness)
    columns: dict[str, Any] = {
        "class": [words[at] for at in order],
        "likeness": found.likeness[order].tolist(),
    }
    listing = Listing(
        f"classes by example: {ACROSS} of each in turn, the most alike first",
        tuple(ids[at] for at in order),
        columns,
        (_counts(found), _promise(found, reject)),
        {key: value for key, value in found.to_json().items() if key != "images"},
        grouped="class",
    )
    return handed(listing, place, out)


def _in_turn(group: Rows, likeness: Vectors) -> Rows:
    """Order rows by likeness, a sheet's line of each group in turn, so that its head shows every group."""
    order = np.lexsort((-likeness, group))
    place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return order[np.lexsort((place, group[order], place // ACROSS))]


def _counts(found: naming.Naming) -> str:
    """Write how many images each class has."""
    there = [f"{int((found.answer == at).sum()):,} {name}" for at, name in enumerate(found.classes)]
    return f"{'; '.join(there)}; {int((found.answer == naming.NONE).sum()):,} none of these."


def _promise(found: naming.Naming, reject: float) -> str:
    """Say what "none of these" rests on."""
    if found.threshold is not None:
        return (
            f"Below a likeness of {found.threshold:.3f} an image is none of these: about {100 * reject:g} % "
            "of images of these classes fall there, on average."
        )
    if not reject:
        return "No image is turned away, as asked."
    return (
        f"{found.examples} examples are too few to tell none of these at --reject {reject:g}; give "
        f"{int(np.ceil(1 / reject - 1e-9)) - 1} at least, two or more of each class."
    )


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
