"""`nearfar classes`: the class of each image, by a few examples of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.few_shot import UNCLASSIFIED, FewShotPrediction, classify
from ..analysis.label_errors import Rows
from ..core.errors import NearfarError
from ..data.dataset import class_numbers
from ..data.open import open_data
from ..features.extract import Vectors
from ..training.run import Run
from .listing import ACROSS, Listing
from .store_access import StoreLike, open_for_query, run_of, write_result


def classes(
    store: StoreLike,
    *,
    examples: Any,
    propagate: bool = False,
    reject: float = 0.05,
    save: str | None = None,
    where: str | None = None,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
) -> Listing:
    """Classify images by a few examples of each class, without training; unlike ones stay unclassified.

    Example: nearfar classes photos.nf --examples examples/ --save kind

    Args:
        store: a vector store or its address.
        examples: labelled images: a folder with a folder for each class, of one image or more.
        propagate: propagate labels over a nearest-neighbour graph.
        reject: share of images of these classes that may be left unclassified; 0 classifies every image.
        save: also write the classes to this column of the store; it is empty for unclassified images.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        out: a .csv, .json or .png file to write; .png is a contact sheet.
        run: the run that made the store, if it has moved.

    Returns:
        The images, most similar to the examples first: ten of each class, ten unclassified ones, and so on.

    Raises:
        NearfarError: a class has no example, or an example cannot be used.
    """
    opened = open_for_query(store, out, run)
    source = open_data(examples, expected=opened.info.modality, labels=True)
    numbers, names = class_numbers(source.labels)
    assert numbers is not None
    shown = run_of(opened, run).encode(source)
    ids, x = opened.vectors(where)
    if not ids:
        raise NearfarError(f"{opened.address} has no image that meets --where; change the condition.")
    found = classify(x, shown, numbers, names, reject=reject, propagate=propagate)
    words = [names[at] if at != UNCLASSIFIED else None for at in found.predicted]
    if save is not None:
        opened.update(save, dict(zip(ids, words, strict=True)))
    group = np.where(found.predicted == UNCLASSIFIED, len(names), found.predicted)
    order = _in_turn(group, found.similarity)
    columns: dict[str, Any] = {
        "class": [words[at] for at in order],
        "similarity": found.similarity[order].tolist(),
    }
    listing = Listing(
        f"classes by example: {ACROSS} of each in turn, most similar first",
        tuple(ids[at] for at in order),
        columns,
        (_counts(found), _promise(found, reject)),
        {key: value for key, value in found.to_json().items() if key != "images"},
        grouped="class",
    )
    return write_result(listing, opened, out)


def _in_turn(group: Rows, similarity: Vectors) -> Rows:
    """Order rows by similarity, one line of a sheet for each group in turn."""
    order = np.lexsort((-similarity, group))
    place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return order[np.lexsort((place, group[order], place // ACROSS))]


def _counts(found: FewShotPrediction) -> str:
    """Write how many images each class has."""
    there = [f"{int((found.predicted == at).sum()):,} {name}" for at, name in enumerate(found.classes)]
    return f"{'; '.join(there)}; {int((found.predicted == UNCLASSIFIED).sum()):,} unclassified."


def _promise(found: FewShotPrediction, reject: float) -> str:
    """Say what the threshold for unclassified images guarantees."""
    if found.threshold is not None:
        return (
            f"Images with a similarity below {found.threshold:.3f} are left unclassified: about "
            f"{100 * reject:g} % of images of these classes, on average."
        )
    if not reject:
        return "--reject 0: every image is classified."
    return (
        f"{found.examples} examples are too few for --reject {reject:g}, so every image is classified; give "
        f"at least {int(np.ceil(1 / reject - 1e-9)) - 1}, two or more of each class."
    )
