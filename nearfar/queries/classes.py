"""The verb `classes`: name the class of each image by a few examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import few_shot as naming
from ..analysis.label_errors import Rows
from ..core.errors import NearfarError
from ..data.dataset import class_numbers
from ..data.modality import open_data
from ..features.extract import Vectors
from ..training.run import Run
from .listing import ACROSS, Listing
from .store_access import Address, encoder_of, handed, opened


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
    source = open_data(examples, expected=place.card.modality, labels=True)
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
