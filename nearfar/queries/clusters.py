"""`nearfar clusters`: images sorted into clusters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.clusters import check_clustering, cluster_images
from ..core.errors import NearfarError
from ..core.text import counted
from .listing import Listing
from .store_access import (
    StoreLike,
    check_save,
    none_there,
    open_for_query,
    replace_columns,
    write_result,
)

EXEMPLARS = 10  # images listed of a cluster
LEAST = 10  # images in a cluster of HDBSCAN, unless the user says otherwise


def clusters(
    store: StoreLike,
    *,
    method: str = "kmeans",
    n_clusters: int | None = None,
    min_cluster_size: int = LEAST,
    where: str | None = None,
    save: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """Sort images into clusters, list the most typical images of each, and say how stable they are.

    Example: nearfar clusters photos.nf --save cluster --out clusters.png

    Args:
        store: a vector store or its address.
        method: kmeans, hdbscan or temi.
        n_clusters: number of clusters, for kmeans and temi; if not given, the number that fits best.
        min_cluster_size: smallest number of images in a cluster, for hdbscan.
        where: a condition on columns, such as "site = 'A' and width >= 64".
        save: also write the clusters, numbered from 1, to this column of the store, which is emptied of those
            of an earlier run.
        out: a .csv, .json or .png file to write; .png is a contact sheet.
        seed: random seed.

    Returns:
        The most typical images of each cluster, the largest cluster first.

    Raises:
        NearfarError: there are too few images, or a condition makes no sense.
    """
    check_clustering(method, n_clusters, min_cluster_size)  # before a folder is embedded
    if n_clusters is not None and method == "hdbscan":
        raise NearfarError(
            "--n-clusters is for kmeans and temi; leave it out: hdbscan finds how many there are."
        )
    if min_cluster_size != LEAST and method != "hdbscan":
        raise NearfarError(f"--min-cluster-size is for --method hdbscan; leave it out with {method}.")
    opened = open_for_query(store, out)
    check_save(opened, save, "number")
    ids, x = opened.vectors(where)
    if not ids:
        raise none_there(opened, where)
    noun = opened.info.noun
    found = cluster_images(x, method, n_clusters, min_cluster_size, seed)
    rows = found.exemplars(EXEMPLARS)
    sizes = np.bincount(found.cluster[found.cluster >= 0], minlength=len(found))
    listed, of = [ids[row] for row in rows], found.cluster[rows]
    columns: dict[str, Sequence[Any]] = {
        "cluster": (of + 1).tolist(),
        noun: sizes[of].tolist(),
        "stability": found.stability[of].tolist(),
        "typical": found.typical[rows].tolist(),
        "label": opened.rows(["label"], ids=listed).column("label").to_pylist(),
    }
    lines = [] if found.counts is None else [str(found.counts)]
    if outside := int((found.cluster < 0).sum()):
        lines.append(f"{outside:,} of {len(ids):,} {noun} are in no cluster.")
    if not len(found):
        lines.append(
            "Nothing lies close enough together; give a smaller --min-cluster-size, or --method kmeans."
        )
    else:
        steady, chance = int((found.stability > 0.75).sum()), int((found.stability < 0.5).sum())
        lines.append(
            f"Clusterings of resampled {noun} agree with this one to {found.agreement:.2f} "
            "(adjusted Rand index; 0 is chance, 1 the same). A cluster with a stability above 0.75 is found "
            f"again: {steady:,} of {len(found):,}; one below 0.5 is an accident: {chance:,}."
        )
    counts = None if found.counts is None else found.counts.to_json()
    facts = {
        "method": method,
        "clusters": [
            {"cluster": at + 1, "images": int(sizes[at]), "stability": float(found.stability[at])}
            for at in range(len(found))
        ],
        "agreement": found.agreement,
        "counts": counts,
    }
    if save is not None:
        of_each = {
            one: float(at + 1) if at >= 0 else None for one, at in zip(ids, found.cluster, strict=True)
        }
        lines += replace_columns(opened, {save: of_each})
    title = "no clusters"
    if len(found):
        title = f"{counted(len(found), 'cluster')}, the largest first, the most typical {noun} of each"
    return write_result(Listing(title, tuple(listed), columns, tuple(lines), facts, "cluster"), opened, out)
