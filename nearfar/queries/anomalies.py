"""`nearfar anomalies`: the images most unlike the others, or unlike those known to be normal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.anomalies import K, score_anomalies, score_detection
from ..analysis.planted_oddities import plant_oddities
from ..core.errors import NearfarError
from ..training.run import Run
from .heatmap_files import heat
from .listing import Listing
from .store_access import StoreLike, check_limit, open_for_query, read_labels, run_of, write_result


def anomalies(
    store: StoreLike,
    *,
    normal: str | None = None,
    anomalous: str | None = None,
    method: str = "knn",
    k: int = K,
    fpr: float = 0.05,
    where: str | None = None,
    limit: int = 100,
    save: str | None = None,
    heat_maps: str | Path | None = None,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """List the images most unlike the others, or most unlike those known to be normal.

    Example: nearfar anomalies photos.nf --out odd.png

    Args:
        store: a vector store or its address.
        normal: a condition that normal images meet; half of them set the threshold.
        anomalous: a condition that images known to be anomalous meet, to measure how well they are found.
        method: knn, mahalanobis or forest.
        k: the neighbour whose distance counts, for knn.
        fpr: false-positive rate: share of normal images that may be flagged, between 0 and 1.
        where: a condition on the images to score.
        limit: number of images to list.
        save: also write the scores to this column of the store.
        heat_maps: write heat maps of the listed images to this folder: where each is anomalous.
        out: a .csv, .json or .png file to write; .png is a contact sheet.
        run: the run that made the store, if it has moved; needed for heat maps only.
        seed: random seed.

    Returns:
        The images, the most anomalous first: a higher score is more anomalous.

    Raises:
        NearfarError: too few images are normal, or a condition makes no sense.
    """
    opened, limit = open_for_query(store, out), check_limit(limit)
    asked, known, odd = (
        set(opened.ids(condition)) if condition or first else set[str]()
        for condition, first in ((where, True), (normal, False), (anomalous, False))
    )
    ids, x = opened.vectors(ids=sorted(asked | known))
    is_asked, is_normal, is_anomalous = (
        np.array([one in some for one in ids], bool) for some in (asked, known, odd)
    )
    if (both := is_normal & is_anomalous).any():
        raise NearfarError(
            f"{int(both.sum()):,} images meet both --normal and --anomalous; change one of them."
        )
    found = score_anomalies(x, None if normal is None else is_normal, method, k, fpr, seed)
    rows = np.flatnonzero(is_asked)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    listed = [ids[row] for row in rows[:limit]]
    columns: dict[str, Sequence[Any]] = {"anomaly_score": found.scores[rows[:limit]].tolist()}
    lines, facts = [], {"method": method, "images": len(rows)}
    if found.threshold is not None:
        flagged = found.scores > found.threshold.value
        columns["flagged"] = flagged[rows[:limit]].tolist()
        facts |= {"flagged": int(flagged[rows].sum()), "threshold": vars(found.threshold)}
        lines += [str(found.threshold), f"{facts['flagged']:,} of {len(rows):,} images are flagged."]
    columns["label"] = opened.rows(["label"], ids=listed).column("label").to_pylist()
    if anomalous is not None:
        among = is_asked & found.unseen & (is_normal | is_anomalous if normal is not None else is_asked)
        measured = score_detection(found.scores[among], is_anomalous[among], seed)
        lines, facts = [*lines, str(measured)], facts | measured.to_json()
    if (tested := plant_oddities(x, read_labels(opened, "label", ids)[0], seed)) is not None:
        lines, facts = [*lines, str(tested)], facts | {"planted": tested.to_json()}
    if save is not None:
        opened.update(save, {ids[row]: float(found.scores[row]) for row in rows})
    if heat_maps is not None:
        made = run_of(opened, run)
        lines.append(heat(opened, made, sorted(known) or sorted(asked), listed, Path(heat_maps), seed))
    return write_result(
        Listing("most anomalous first", tuple(listed), columns, tuple(lines), facts), opened, out
    )
