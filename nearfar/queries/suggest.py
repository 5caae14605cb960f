"""`nearfar suggest`: which images to label next."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from ..analysis.active_learning import ENOUGH, check_strategy, suggest_rows
from ..core.errors import NearfarError
from ..core.text import counted
from .label_origin import accepted_ids, left_out_accepted
from .listing import Listing
from .store_access import (
    UNKNOWN,
    StoreLike,
    check_limit,
    none_there,
    open_for_query,
    read_labels,
    write_result,
)


def suggest(
    store: StoreLike,
    *,
    limit: int = 100,
    column: str = "label",
    method: str = "auto",
    where: str | None = None,
    accepted: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
) -> Listing:
    """Suggest which images to label next: typical ones while labels are few, later those in doubt.

    Example: nearfar suggest photos.nf --limit 100 --out next.csv

    Args:
        store: a vector store or its address.
        limit: number of images to suggest.
        column: the column with the labels so far; it is empty where there is none yet.
        method: how to choose: auto (by the number of labels), typical, margin, k-center or random.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        accepted: also count labels that were accepted from a classifier, not only those given by people.
        seed: random seed.
        out: a .csv, .json or .png file to write; .png is a contact sheet.

    Returns:
        Images without a label, in the order in which to label them.

    Raises:
        NearfarError: all are labelled, or there is no such method or column.
    """
    check_strategy(method)  # both before a folder is embedded
    check_limit(limit)
    opened = open_for_query(store, out)
    ids, x = opened.vectors(where)
    if not ids:
        raise none_there(opened, where)
    taken = set() if accepted else accepted_ids(opened, column)
    kept = np.array([one not in taken for one in ids], bool)
    ids, x = [one for one in ids if one not in taken], x[kept]
    if not ids:
        those = "" if where is None else " that meets --where"
        raise NearfarError(
            f"each {opened.info.one}{those} has a label that was accepted from a classifier, and none is "
            f"left; look at these labels: nearfar label-errors {shlex.quote(opened.address)} "
            f"--column {column} --accepted"
        )
    labels, names = read_labels(opened, column, ids)
    found = suggest_rows(x, labels, limit, method=method, seed=seed)
    known = int((labels != UNKNOWN).sum())
    switch = ENOUGH * max(2, len(names))
    lines: tuple[str, ...] = (
        f"{known:,} of {len(ids):,} {opened.info.noun} have a label, of {counted(len(names), 'class')}. "
        f"These were chosen by --method {found.method}; auto chooses by margin from {ENOUGH} labels a class "
        f"({switch:,} here).",
    )
    if not kept.all():
        lines += (left_out_accepted(int((~kept).sum())),)
    chosen = tuple(ids[row] for row in found.rows)
    facts = {"labels": known, "images": len(ids), "method": found.method}
    columns = {"rank": list(range(1, len(chosen) + 1))}
    return write_result(Listing("to label next, in this order", chosen, columns, lines, facts), opened, out)
