"""`nearfar label-errors`: the labels that are most likely wrong, each with a better one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.label_errors import LabelErrors, find_label_errors
from ..core.errors import NearfarError
from ..core.text import percent
from .label_origin import accepted_ids, left_out_accepted
from .listing import Listing
from .store_access import (
    UNKNOWN,
    StoreLike,
    check_limit,
    left_out_sentence,
    lone_classes_left_out,
    none_there,
    open_for_query,
    read_labels,
    write_result,
)

OWN = ("suggested", "doubt")  # columns of the list beside the labels
TELLING = 0.65  # of labels that the classifier gives too: from there on, estimates are within a factor of two


def label_errors(
    store: StoreLike,
    *,
    column: str = "label",
    where: str | None = None,
    accepted: bool = False,
    limit: int = 100,
    seed: int = 0,
    out: str | Path | None = None,
) -> Listing:
    """List the labels that are most likely wrong, each with a better one, and estimate how many are wrong.

    Example: nearfar label-errors photos.nf --out doubtful.png

    Args:
        store: a vector store or its address.
        column: the column with the labels; images without a label, or alone in their class, are left out.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        accepted: also count labels that were accepted from a classifier, not only those given by people.
        limit: number of labels to list.
        seed: random seed.
        out: a .csv, .json or .png file to write; .png is a contact sheet.

    Returns:
        The images, the most doubtful first.

    Raises:
        NearfarError: there are too few labels, or no such column.
    """
    check_limit(limit)  # before a folder is embedded
    if column in OWN:
        raise NearfarError(
            f"the list has a column {column!r} of its own; keep the labels in a column of another name."
        )
    opened = open_for_query(store, out)
    ids, x = opened.vectors(where)
    if not ids:
        raise none_there(opened, where)
    labels, names = read_labels(opened, column, ids)
    taken = set() if accepted else accepted_ids(opened, column)
    by_classifier = np.array([one in taken for one in ids], bool) & (labels != UNKNOWN)
    labels[by_classifier] = UNKNOWN
    if not (labels != UNKNOWN).any():
        if by_classifier.any():
            raise NearfarError(
                f"all labels in {column!r} were accepted from a classifier; count them too with --accepted."
            )
        raise NearfarError(
            f"no {opened.info.one} of {opened.address} has a label in {column!r}; name another column with "
            "--column, or add labels: nearfar embed with --labels, or nearfar store with --columns."
        )
    labels, names, lone = lone_classes_left_out(labels, names)
    rows = np.flatnonzero(labels != UNKNOWN)
    found = find_label_errors(x[rows], labels[rows], names, seed=seed)
    first = found.order[:limit]
    columns: dict[str, Any] = {
        "suggested": [names[at] for at in found.suggested[first]],
        column: [names[at] for at in found.labels[first]],
        "doubt": found.doubt[first].tolist(),
    }
    lines: tuple[str, ...] = (_how_many(found, opened.info.noun),)
    if lone:
        lines += (left_out_sentence(lone, opened.info.one),)
    if by_classifier.any():
        lines += (left_out_accepted(int(by_classifier.sum())),)
    facts = {
        "labels": len(rows),
        "estimate": found.wrong.count,
        "interval": [found.wrong.low, found.wrong.high],
        "accuracy": found.accuracy,
        "left_out": list(lone),
    }
    captions = [
        (given, f"or {other}?") for given, other in zip(columns[column], columns["suggested"], strict=True)
    ]
    shown = tuple(ids[rows[at]] for at in first)
    title = "labels, most doubtful first"
    listing = Listing(title, shown, columns, lines, facts, captions=captions)
    return write_result(listing, opened, out)


def _how_many(found: LabelErrors, noun: str) -> str:
    """Say how many labels are wrong, as far as that is known."""
    count, labels, accuracy = found.wrong.count, len(found.labels), percent(found.accuracy)
    if found.accuracy < TELLING:
        return (
            f"How many of {labels:,} labels are wrong cannot be told: a classifier that did not see them "
            f"gives {accuracy} of all labels, too few to tell wrong labels from hard {noun}."
        )
    return (
        f"About {count:,} of {labels:,} labels are wrong ({found.wrong.low:,} to {found.wrong.high:,}, 95 % "
        f"interval of the draw of {noun}), as far as a classifier that did not see them can tell; it "
        f"gives {accuracy} of all labels."
    )
