"""`nearfar curate`: a balanced part of a collection."""

from __future__ import annotations

from pathlib import Path

from ..analysis.curation import balanced
from ..core.text import counted
from .listing import Listing
from .store_access import (
    StoreLike,
    check_limit,
    check_save,
    none_there,
    open_for_query,
    replace_columns,
    write_result,
)


def curate(
    store: StoreLike,
    *,
    limit: int | None = None,
    where: str | None = None,
    save: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """Choose a balanced part of a collection, in which what is rare is as frequent as it can be.

    Example: nearfar curate photos.nf --limit 1000 --out balanced.csv

    Args:
        store: a vector store or its address.
        limit: number of images to choose; if not given, a tenth of them.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        save: also write 1 to this column of the store for the chosen images and 0 for the others; it is
            emptied for images that do not meet the condition.
        out: a .csv, .json or .png file to write; .png is a contact sheet.
        seed: random seed.

    Returns:
        The chosen images, cluster by cluster.

    Raises:
        NearfarError: there are fewer images, or a condition makes no sense.
    """
    if limit is not None:
        check_limit(limit)  # before a folder is embedded
    opened = open_for_query(store, out)
    check_save(opened, save, "number")
    ids, x = opened.vectors(where)
    if not ids:
        raise none_there(opened, where)
    found = balanced(x, max(1, len(ids) // 10) if limit is None else limit, seed)
    rows = sorted(found.rows.tolist(), key=lambda row: (found.cluster[row], row))
    chosen = tuple(ids[row] for row in rows)
    also = ["text"] if opened.info.modality == "text" else []  # of which many have no file to list
    kept = opened.rows(["path", "label", *also], ids=list(chosen)).to_pydict()
    columns = {"cluster": [int(found.cluster[row]) + 1 for row in rows], **kept}
    before, after = found.largest
    groups = int(found.cluster.max()) + 1
    lines: tuple[str, ...] = (
        f"{len(chosen):,} of {counted(len(ids), opened.info.one)}, of {counted(groups, 'cluster')}. The "
        f"largest cluster holds {before:.0%} of the collection and {after:.0%} of the chosen "
        f"{opened.info.noun}.",
    )
    if save is not None:
        inside = set(chosen)
        lines += replace_columns(opened, {save: {one: float(one in inside) for one in ids}})
    facts = {"images": len(ids), "clusters": groups, "largest_before": before, "largest_after": after}
    return write_result(Listing("a balanced part", chosen, columns, lines, facts, "cluster"), opened, out)
