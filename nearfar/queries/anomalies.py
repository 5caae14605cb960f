"""The verb `anomalies`: the images most unlike the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import anomalies as detecting
from ..core.errors import NearfarError
from ..training.run import Run
from .heatmap_files import heat
from .listing import Listing
from .store_access import Address, counted, encoder_of, handed, opened


def anomalies(
    store: Address,
    *,
    normal: str | None = None,
    strange: str | None = None,
    way: str = "knn",
    k: int = detecting.K,
    false_alarms: float = 0.05,
    where: str | None = None,
    count: int = 100,
    save: str | None = None,
    heat_maps: str | Path | None = None,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """List the images that are most unlike the others, or unlike those known to be normal.

    Args:
        store: a vector store or its address.
        normal: a condition that normal images meet; half of them set the threshold.
        strange: a condition that images known to be strange meet, to say how well they are found.
        way: "knn", "mahalanobis" or "forest".
        k: the neighbour whose distance counts, for "knn".
        false_alarms: share of normal images that may be flagged.
        where: a condition on the images to score.
        count: images to list.
        save: a column to write the scores to.
        heat_maps: a folder to write heat maps of the listed images to.
        out: a .csv, .json or .png file to write.
        run: the run that made the store, if it has moved; needed for heat maps only.
        seed: names every draw.

    Returns:
        The images, the strangest first.

    Raises:
        NearfarError: too few images are normal, or a condition makes no sense.
    """
    place, count = opened(store, out), counted(count)
    asked, known, odd = (
        set(place.ids(condition)) if condition or first else set[str]()
        for condition, first in ((where, True), (normal, False), (strange, False))
    )
    ids, x = place.vectors(ids=sorted(asked | known))
    is_asked, is_normal, is_odd = (
        np.array([one in some for one in ids], bool) for some in (asked, known, odd)
    )
    if (is_normal & is_odd).any():
        raise NearfarError(
            f"{int((is_normal & is_odd).sum()):,} images meet both --normal and --strange; let them differ."
        )
    found = detecting.anomalies(x, None if normal is None else is_normal, way, k, false_alarms, seed)
    rows = np.flatnonzero(is_asked)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    listed = [ids[row] for row in rows[:count]]
    columns: dict[str, Sequence[Any]] = {"strangeness": found.scores[rows[:count]].tolist()}
    lines, facts = [], {"way": way, "images": len(rows)}
    if found.threshold is not None:
        flagged = found.scores > found.threshold.value
        columns["flagged"] = flagged[rows[:count]].tolist()
        facts |= {"flagged": int(flagged[rows].sum()), "threshold": vars(found.threshold)}
        lines += [str(found.threshold), f"{facts['flagged']:,} of {len(rows):,} images are flagged."]
    columns["label"] = place.rows(["label"], ids=listed).column("label").to_pylist()
    if strange is not None:
        among = is_asked & found.judging & (is_normal | is_odd if normal is not None else is_asked)
        judged = detecting.judge(found.scores[among], is_odd[among], seed)
        lines, facts = [*lines, str(judged)], facts | judged.to_json()
    if save is not None:
        place.update(save, {ids[row]: float(found.scores[row]) for row in rows})
    if heat_maps is not None:
        made = encoder_of(place, run)
        lines.append(heat(place, made, sorted(known) or sorted(asked), listed, Path(heat_maps), seed))
    return handed(Listing("strangest first", tuple(listed), columns, tuple(lines), facts), place, out)
