"""`nearfar classes`: the class of each image, by a few examples of each class, or by the classes' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.conformal import least_count
from ..analysis.few_shot import UNCLASSIFIED, FewShotPrediction, by_words, check_reject, classify
from ..analysis.label_errors import Rows
from ..core.errors import NearfarError
from ..core.text import as_list, counted
from ..data.dataset import class_numbers
from ..data.modalities import IMAGES
from ..data.open import open_data
from ..embedding.words import TEMPLATES, check_templates, of_names, read_names
from ..features.extract import Vectors
from ..stores.base import StoreInfo
from ..training.run import Run
from .listing import ACROSS, Listing
from .store_access import StoreLike, check_save, none_there, open_for_query, run_of, write_result

REJECT = 0.05  # unless the user says otherwise


def classes(
    store: StoreLike,
    *,
    examples: Any = None,
    names: str | Path | None = None,
    templates: Sequence[str] = TEMPLATES,
    propagate: bool = False,
    reject: float = REJECT,
    save: str | None = None,
    where: str | None = None,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
) -> Listing:
    """Classify images without training, by a few examples of each class or by the names of the classes.

    Example: nearfar classes photos.nf --examples examples/ --save kind

    Args:
        store: a vector store or its address.
        examples: labelled images: a folder with a folder for each class, of one image or more.
        names: instead, a text file with the name of a class in each line; the run needs an encoder of texts.
        templates: sentences around a name, with {} for it; each class is the mean of all of them.
        propagate: propagate labels over a nearest-neighbour graph.
        reject: with examples, share of images of these classes that may be left unclassified; 0 classifies
            every image.
        save: also write the classes to this column of the store; it is empty for unclassified images.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        out: a .csv, .json or .png file to write; .png is a contact sheet.
        run: the run that made the store, if it has moved.

    Returns:
        The images, most similar to the examples first: ten of each class, ten unclassified ones, and so on.

    Raises:
        NearfarError: a class has no example, or an example cannot be used.
    """
    if (examples is None) == (names is None):
        raise NearfarError("classes are told by --examples FOLDER or by --names FILE; give one of them.")
    # What is wrong in all of these is said before a folder is embedded.
    if names is not None and propagate:
        raise NearfarError("--propagate needs --examples; leave it out with --names.")
    check_reject(reject)
    templates = as_list(templates)
    check_templates(templates)
    if names is not None and reject != REJECT:
        raise NearfarError("--reject needs --examples; leave it out with --names.")
    if names is None and tuple(templates) != tuple(TEMPLATES):
        raise NearfarError("--templates are for --names; leave them out with --examples.")
    named = None if names is None else read_names(names)
    opened = open_for_query(store, out, run)
    check_save(opened, save, "text")
    if named is not None and opened.info.modality != IMAGES:
        raise NearfarError(
            f"--names is for images, and {opened.address} holds {opened.info.modality}; give --examples."
        )
    ids, x = opened.vectors(where)
    if not ids:
        raise none_there(opened, where)
    if named is not None:
        told, by = named, "name"
        found, promise = by_words(x, of_names(run_of(opened, run), told, templates), told), "By words alone."
    else:
        source, by = open_data(examples, expected=opened.info.modality, labels=True), "example"
        numbers, told = class_numbers(source.labels)
        assert numbers is not None
        shown = run_of(opened, run).encode(source)
        found = classify(x, shown, numbers, told, reject=reject, propagate=propagate)
        promise = _promise(found, reject, opened.info)
    words = [told[at] if at != UNCLASSIFIED else None for at in found.predicted]
    if save is not None:
        opened.update(save, dict(zip(ids, words, strict=True)))
    group = np.where(found.predicted == UNCLASSIFIED, len(told), found.predicted)
    order = _in_turn(group, found.similarity)
    columns: dict[str, Any] = {
        "class": [words[at] for at in order],
        "similarity": found.similarity[order].tolist(),
    }
    listing = Listing(
        f"classes by {by}: {ACROSS} of each in turn, most similar first",
        tuple(ids[at] for at in order),
        columns,
        (_counts(found), promise),
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


def _promise(found: FewShotPrediction, reject: float, info: StoreInfo) -> str:
    """Say what the threshold for unclassified images guarantees."""
    if found.threshold is not None:
        return (
            f"{info.noun.capitalize()} with a similarity below {found.threshold:.3f} are left unclassified: "
            f"about {100 * reject:g} % of {info.noun} of these classes, on average."
        )
    if not reject:
        return f"--reject 0: every {info.one} is classified."
    return (
        f"{counted(found.examples, 'example is')} too few for --reject {reject:g}, so every {info.one} is "
        f"classified; give at least {least_count(reject):,}, two or more of each class."
    )
