"""`nearfar anomalies`: the images most unlike the others, or unlike those known to be normal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.anomalies import check_detection, score_anomalies, score_detection
from ..analysis.anomaly_detectors import DETECTORS as METHODS
from ..analysis.planted_oddities import plant_oddities
from ..core.errors import NearfarError
from ..core.text import counted
from ..data.modalities import IMAGES
from ..models import known as known_encoders
from ..stores.base import VectorStore, check_room
from ..training.run import Run
from .anomaly_parts import find_parts
from .csi_vectors import CSI, turned_vectors
from .heatmap_files import heat
from .listing import Listing
from .store_access import (
    StoreLike,
    check_limit,
    check_save,
    none_there,
    open_for_query,
    read_labels,
    run_of,
    write_result,
)

FPR = 0.05  # unless the user says otherwise
OTHER_WORLDS = (
    "An encoder that has learnt from such images alone may not see things of another kind; look with a known "
    "one, too: nearfar embed known PHOTOS --store known.nf"
)


def anomalies(
    store: StoreLike,
    *,
    parts: bool | str = False,
    normal: str | None = None,
    anomalous: str | None = None,
    method: str = "knn",
    k: int | None = None,
    fpr: float = FPR,
    where: str | None = None,
    limit: int = 100,
    save: str | None = None,
    heat_maps: str | Path | None = None,
    bank: str | Path | None = None,
    strides: Sequence[int] | None = None,
    size: int | None = None,
    turned: bool = False,
    truth: str | Path | None = None,
    out: str | Path | None = None,
    run: Run | str | Path | None = None,
    seed: int = 0,
) -> Listing:
    """List the images most unlike the others, or most unlike those known to be normal.

    Example: nearfar anomalies photos.nf --out odd.png

    Args:
        store: a vector store or its address; with `parts` also a folder of images.
        parts: compare parts of images instead of whole ones, by whitened (if no name is given),
            patchcore, padim, nearest or spade.
        normal: a condition that normal images meet, half of which set the threshold; of a folder of images,
            another folder.
        anomalous: a condition that images known to be anomalous meet, to measure how well they are found.
        method: how whole images are compared: knn, mahalanobis or forest; or csi, for an encoder that
            --method csi trained, which reads the images again.
        k: the neighbour whose distance counts, for knn; by default 5 with `normal`, and else 4 % of the
            images, from 5 to 50.
        fpr: false-positive rate: share of normal images that may be flagged, between 0 and 1.
        where: a condition on the images to score.
        limit: number of images to list.
        save: also write the scores to this column of the store.
        heat_maps: write heat maps of the listed images to this folder: where each is anomalous.
        bank: a .safetensors file that keeps the patches of normal images, for `parts`; more can be added.
        strides: strides of the feature maps used for parts, in pixels.
        size: short side in pixels at which parts are compared; by default the images' own, up to 64 places
            of the finest map.
        turned: also learn normal images turned by quarters and mirrored, for parts that lie in any position.
        truth: a folder of masks or of text files of boxes, to measure how well parts are found.
        out: a .csv, .json or .png file to write; .png is a contact sheet. With `parts` also a folder for
            all three, the heat maps, and masks where there is a threshold.
        run: the encoder, by default known; of a store, the run that made it, if it has moved.
        seed: random seed.

    Returns:
        The images, the most anomalous first: a higher score is more anomalous.

    Raises:
        NearfarError: too few images are normal, or a condition makes no sense.
    """
    if parts:
        if method != METHODS[0] or save is not None:
            raise NearfarError(
                "--method and --save are for whole images; leave them out, or leave --parts out."
            )
        if k is not None:
            raise NearfarError("--k is for whole images; leave it out, or leave --parts out.")
        return find_parts(
            store,
            method=None if parts is True else str(parts),
            normal=normal,
            anomalous=anomalous,
            condition=where,
            truth=truth,
            bank=bank,
            strides=strides,
            size=size,
            turned=turned,
            fpr=fpr,
            limit=limit,
            out=out,
            heat_maps=heat_maps,
            run=run,
            seed=seed,
        )
    given = {"bank": bank, "strides": strides, "size": size, "turned": turned or None, "truth": truth}
    for name, value in given.items():
        if value is not None:
            raise NearfarError(f"--{name} is for parts of images; add --parts.")
    check_detection(method, k, fpr)  # all before a folder is embedded
    if k is not None and method in ("mahalanobis", "forest"):
        raise NearfarError(f"--k is for --method knn; leave it out with --method {method}.")
    if fpr != FPR and normal is None:
        raise NearfarError("--fpr sets a threshold by normal images; say with --normal which these are.")
    check_limit(limit)
    opened = open_for_query(store, out, run)
    check_save(opened, save, "number")
    if heat_maps is not None and opened.info.modality != IMAGES:
        raise NearfarError(
            f"{opened.address} holds {opened.info.modality}, and heat maps are of images; leave --heat-maps "
            "out."
        )
    asked, known, odd = (
        set(opened.ids(condition)) if condition or first else set[str]()
        for condition, first in ((where, True), (normal, False), (anomalous, False))
    )
    if not asked:
        raise none_there(opened, where)
    every = sorted(asked | known)
    check_room(opened, where, len(every))
    ids, plain = opened.vectors(ids=every)
    x = turned_vectors(opened, run_of(opened, run), list(ids)) if method == CSI else plain
    is_asked, is_normal, is_anomalous = (
        np.array([one in some for one in ids], bool) for some in (asked, known, odd)
    )
    if (both := is_normal & is_anomalous).any():
        several = counted(int(both.sum()), f"{opened.info.one} meets")
        raise NearfarError(f"{several} both --normal and --anomalous; change one of them.")
    rows, noun = np.flatnonzero(is_asked), opened.info.noun
    found = score_anomalies(x, None if normal is None else is_normal, method, k, fpr, seed, noun)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    listed = [ids[row] for row in rows[:limit]]
    columns: dict[str, Sequence[Any]] = {"anomaly_score": found.scores[rows[:limit]].tolist()}
    lines, facts = [], {"method": method, "images": len(rows)}
    if found.threshold is not None:
        flagged = found.scores > found.threshold.value
        columns["flagged"] = flagged[rows[:limit]].tolist()
        facts |= {"flagged": int(flagged[rows].sum()), "threshold": vars(found.threshold)}
        lines += [found.threshold.said(noun), f"{facts['flagged']:,} of {len(rows):,} {noun} are flagged."]
    columns["label"] = opened.rows(["label"], ids=listed).column("label").to_pylist()
    if anomalous is not None:
        among = is_asked & found.unseen & (is_normal | is_anomalous if normal is not None else is_asked)
        measured = score_detection(found.scores[among], is_anomalous[among], seed, noun)
        lines, facts = [*lines, measured.said(noun)], facts | measured.to_json()
    if (tested := plant_oddities(plain, read_labels(opened, "label", ids)[0], seed, noun)) is not None:
        lines, facts = [*lines, str(tested)], facts | {"planted": tested.to_json()}
        if tested.by == "clusters" and opened.info.modality == IMAGES and _from_scratch(opened, run):
            lines.append(OTHER_WORLDS)
    if save is not None:
        opened.update(save, {ids[row]: float(found.scores[row]) for row in rows})
    if heat_maps is not None:
        made = run_of(opened, run)
        lines.append(heat(opened, made, sorted(known) or sorted(asked), listed, Path(heat_maps), seed))
    return write_result(
        Listing("most anomalous first", tuple(listed), columns, tuple(lines), facts), opened, out
    )


def _from_scratch(store: VectorStore, run: Run | str | Path | None) -> bool:
    """Tell whether a store's encoder is of a run, and no known one is known to have begun or taught it."""
    if run is None and (not store.info.run or known_encoders.is_name(store.info.run)):
        return False
    with suppress(NearfarError):  # the run may be gone
        return run_of(store, run).from_scratch
    return True
