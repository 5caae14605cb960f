"""The verb `clusters`: images sorted into clusters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import clusters as sorting
from .listing import Listing
from .store_access import Address, handed, opened

EXEMPLARS = 10  # images listed of a cluster


def clusters(
    store: Address,
    *,
    way: str = "kmeans",
    number: int | None = None,
    least: int = 10,
    where: str | None = None,
    save: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """Sort images into clusters, and list the most typical of each.

    Args:
        store: a vector store or its address.
        way: "kmeans" or "hdbscan".
        number: clusters, for k-means; by default the number that fits best.
        least: images in a cluster at least, for HDBSCAN.
        where: a condition on columns.
        save: a column to write each image's cluster to, from 1; empty where it is in none.
        out: a .csv, .json or .png file to write.
        seed: names every draw.

    Returns:
        The most typical images of each cluster, the largest cluster first.

    Raises:
        NearfarError: there are too few images, or a condition makes no sense.
    """
    place = opened(store, out)
    ids, x = place.vectors(where)
    found = sorting.clusters(x, way, number, least, seed)
    rows = found.exemplars(EXEMPLARS)
    sizes = np.bincount(found.cluster[found.cluster >= 0], minlength=len(found))
    listed, of = [ids[row] for row in rows], found.cluster[rows]
    columns: dict[str, Sequence[Any]] = {
        "cluster": (of + 1).tolist(),
        "images": sizes[of].tolist(),
        "stability": found.stability[of].tolist(),
        "typical": found.typical[rows].tolist(),
        "label": place.rows(["label"], ids=listed).column("label").to_pylist(),
    }
    lines = [] if found.counts is None else [str(found.counts)]
    if outside := int((found.cluster < 0).sum()):
        lines.append(f"{outside:,} of {len(ids):,} images are in no cluster.")
    lines.append(
        f"Clustered anew from resampled images, the whole agrees to {found.agreement:.2f} (adjusted Rand "
        "index; 0 is chance, 1 the same). Clusters above a stability of 0.75 come again; those below 0.5 are "
        "accidents."
    )
    counts = None if found.counts is None else found.counts.to_json()
    facts = {
        "way": way,
        "clusters": [
            {"cluster": at + 1, "images": int(sizes[at]), "stability": float(found.stability[at])}
            for at in range(len(found))
        ],
        "agreement": found.agreement,
        "counts": counts,
    }
    if save is not None:
        place.update(
            save,
            {one: float(at + 1) if at >= 0 else None for one, at in zip(ids, found.cluster, strict=True)},
        )
    title = f"{len(found)} clusters, the largest first, the most typical images of each"
    return handed(Listing(title, tuple(listed), columns, tuple(lines), facts, "cluster"), place, out)
