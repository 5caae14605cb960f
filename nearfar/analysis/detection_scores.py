"""Measures how well found boxes agree with true ones: average precision as COCO has it, with intervals.

The computation is faster-coco-eval's, from the extra `detect`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.errors import NearfarError
from ..core.intervals import ends, resampling_weights

RESAMPLES = 200
MOST = 100  # boxes of a class on an image that count
RECALLS = np.linspace(0, 1, 101)
_NO_AREA = 1e11  # beyond the largest of COCO's ranges of areas, 1e10 square pixels
TO_INSTALL = "pip install 'nearfar[detect]'"


@dataclass(frozen=True)
class Found:
    """Boxes on an image.

    Attributes:
        boxes: (k, 4): left, top, right, bottom in pixels.
        labels: (k,) class numbers.
        scores: (k,) 0 to 1; of true boxes None.
        crowd: (k,) bool, of true boxes: whether a box holds many objects.
        difficult: (k,) bool, of true boxes: whether to find it or to miss it counts for nothing.
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64] | None = None
    crowd: npt.NDArray[np.bool_] | None = None
    difficult: npt.NDArray[np.bool_] | None = None

    @property
    def crowds(self) -> npt.NDArray[np.bool_]:
        """(k,) `crowd`, no box where it is not given."""
        return np.zeros(len(self.boxes), bool) if self.crowd is None else self.crowd

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """(k,) whether a true box counts."""
        return ~self.crowds if self.difficult is None else ~(self.crowds | self.difficult)


@dataclass(frozen=True)
class BoxScores:
    """How well boxes agree; 0 to 1.

    Attributes:
        ap: mean average precision over overlaps of .50, .55, ... .95 and over classes.
        ap50, ap75: at an overlap of .50, and of .75.
        low, high: the ends of the 95 % bootstrap interval of `ap50` over images.
        per_class: class to its `ap` and `ap50`; one without a true box is left out.
    """

    ap: float
    ap50: float
    ap75: float
    low: float
    high: float
    per_class: dict[str, dict[str, float]]


def scores(
    truth: Sequence[Found],
    found: Sequence[Found],
    classes: Sequence[str],
    seed: int = 0,
    groups: npt.NDArray[np.int64] | None = None,
) -> BoxScores:
    """Compute the figures.

    Args:
        truth, found: n, an image each.
        classes: names.
        seed: random seed of the resamples.
        groups: (n,) numbers of the groups that images belong to, which are drawn whole; None without groups.

    Returns:
        The figures.

    Raises:
        NearfarError: faster-coco-eval is missing, or there is no true box.

    Source:
        Lin et al. 2014, "Microsoft COCO", with the detection evaluation of its API.
    """
    if not any(one.counted.any() for one in truth):
        raise NearfarError("there is no true box on any of the images; detection cannot be measured on them.")
    evaluation = _evaluation(truth, found, classes)
    precision = evaluation.eval["precision"][:, :, :, 0, -1].astype(np.float64)  # overlap, recall, class
    own = np.where(precision > -1, precision, np.nan).mean(1)  # overlap, class
    there = ~np.isnan(own).all(0)
    per_class = {
        name: {"ap": float(own[:, at].mean()), "ap50": float(own[0, at])}
        for at, name in enumerate(classes)
        if there[at]
    }
    low, high = _interval(truth, found, len(classes), _weights(len(truth), seed, groups))
    kept = own[:, there]
    return BoxScores(float(kept.mean()), float(kept[0].mean()), float(kept[5].mean()), low, high, per_class)


def _evaluation(truth: Sequence[Found], found: Sequence[Found], classes: Sequence[str]) -> Any:
    """Let faster-coco-eval compare; per image and class, too."""
    try:
        core: Any = importlib.import_module("faster_coco_eval")
    except ImportError:
        raise NearfarError(f"detection is measured by faster-coco-eval; type: {TO_INSTALL}") from None
    kinds = [{"id": at + 1, "name": name} for at, name in enumerate(classes)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (own, other) in enumerate(zip(truth, found, strict=True), start=1):
        crowds, counted = own.crowds, own.counted
        for at, (left, top, right, bottom) in enumerate(own.boxes.tolist()):
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(own.labels[at]) + 1,
                    "bbox": [left, top, width, height],
                    # The API takes no box as one to ignore but by an area out of range.
                    "area": width * height if counted[at] or crowds[at] else _NO_AREA,
                    "iscrowd": int(crowds[at]),
                }
            )
        assert other.scores is not None
        for at, (left, top, right, bottom) in enumerate(other.boxes.tolist()):
            results.append(
                {
                    "image_id": image,
                    "category_id": int(other.labels[at]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(other.scores[at]),
                }
            )
    images = [{"id": at + 1, "width": 1, "height": 1} for at in range(len(truth))]
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = core.COCO({"images": images, "categories": kinds, "annotations": annotations})
        given = (
            wanted.loadRes(results)
            if results
            else core.COCO({"images": images, "categories": kinds, "annotations": []})
        )
        evaluation = core.COCOeval_faster(
            wanted, given, "bbox", print_function=lambda *_: None, separate_eval=True
        )
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def best_score(
    truth: Sequence[Found], found: Sequence[Found], classes: int, overlap: float = 0.5
) -> tuple[float, float] | None:
    """Find the score from which on boxes have the best F1, over all classes.

    Args:
        truth, found: n, an image each.
        classes: how many there are.
        overlap: least intersection over union of a box that is right.

    Returns:
        The score, in the middle between the last box kept and the first left out, and the F1; None where no
        box is right.
    """
    pairs = [*zip(truth, found, strict=True)]
    parts = [match(own, other, label, overlap) for own, other in pairs for label in range(classes)]
    score, right, nothing = (np.concatenate([part[at] for part in parts]) for at in range(3))
    order = np.argsort(-score, kind="stable")
    order = order[~nothing[order]]
    hits = np.cumsum(right[order])
    if not len(hits) or not hits[-1]:
        return None
    total = sum(int(one.counted.sum()) for one in truth)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + total)
    ranked = score[order]
    ends = np.append(np.diff(ranked) != 0, True)  # boxes of equal score stay together
    best = int(np.where(ends, f1, -1).argmax())
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2), float(f1[best])


def match(truth: Found, found: Found, label: int, overlap: float) -> tuple[npt.NDArray[Any], ...]:
    """Match the found boxes of a class on an image with the true ones, the highest score first.

    Args:
        truth, found: of one image.
        label: the class.
        overlap: least intersection over union.

    Returns:
        Scores (k,), whether each is right (k,), whether each counts for nothing (k,), of the highest `MOST`.
    """
    assert found.scores is not None
    rows = np.flatnonzero(found.labels == label)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")][:MOST]
    wanted = np.flatnonzero(truth.labels == label)
    wanted = wanted[np.argsort(~truth.counted[wanted], kind="stable")]
    crowd, ignored = truth.crowds[wanted], ~truth.counted[wanted]
    overlaps = _overlaps(found.boxes[rows], truth.boxes[wanted], crowd)
    right, nothing, taken = np.zeros(len(rows), bool), np.zeros(len(rows), bool), np.zeros(len(wanted), bool)
    for at in range(len(rows)):
        best, place = min(overlap, 1 - 1e-10), -1
        for each in range(len(wanted)):
            if taken[each] and not crowd[each]:
                continue
            if place > -1 and not ignored[place] and ignored[each]:
                break
            if overlaps[at, each] >= best:
                best, place = overlaps[at, each], each
        if place > -1:
            taken[place], right[at], nothing[at] = True, not ignored[place], ignored[place]
    return found.scores[rows], right, nothing


def _overlaps(
    found: npt.NDArray[Any], truth: npt.NDArray[Any], crowd: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Give (found, true) intersections over unions; of a crowd, over the found box's own area."""
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    both = np.maximum(high - low, 0).prod(2)
    own, other = ((some[:, 2:] - some[:, :2]).prod(1) for some in (found, truth))
    union = np.where(crowd[None], own[:, None], own[:, None] + other[None] - both)
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _weights(count: int, seed: int, groups: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float64]:
    """Draw the images of each resample."""
    return resampling_weights(count, RESAMPLES, rng.fold(seed, "bootstrap of images"), groups)


def _interval(
    truth: Sequence[Found], found: Sequence[Found], classes: int, weights: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Give the ends between which 95 % of the AP50 lie, each image counted `weights` times."""
    every = np.stack([_ap50(truth, found, label, weights) for label in range(classes)])
    there = ~np.isnan(every)
    counts = there.sum(0)
    mean = np.where(there, every, 0).sum(0)[counts > 0] / counts[counts > 0]
    return ends(mean)


def _ap50(
    truth: Sequence[Found], found: Sequence[Found], label: int, weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Compute a class's average precision at an overlap of .50, each image counted `weights` times.

    Args:
        truth, found: n, an image each.
        label: the class.
        weights: (m, n).

    Returns:
        (m,); NaN where no true box counts.
    """
    parts = [match(own, other, label, 0.5) for own, other in zip(truth, found, strict=True)]
    score = np.concatenate([part[0] for part in parts])
    right, nothing = (np.concatenate([part[at] for part in parts]) for at in (1, 2))
    image = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    order = np.argsort(-score, kind="stable")
    order = order[~nothing[order]]
    wanted = np.array([((one.labels == label) & one.counted).sum() for one in truth])
    total = weights @ wanted
    each = weights[:, image[order]]
    hits = np.cumsum(each * right[order], 1)
    recall = np.divide(hits, total[:, None], out=np.zeros_like(hits), where=total[:, None] > 0)
    count = np.cumsum(each, 1)
    precision = np.divide(hits, count, out=np.zeros_like(hits), where=count > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    result = np.full(len(weights), np.nan)
    for row in np.flatnonzero(total > 0):
        at = np.searchsorted(recall[row], RECALLS - 1e-12, side="left")
        kept = at[at < len(order)]
        result[row] = precision[row, kept].sum() / len(RECALLS)
    return result
