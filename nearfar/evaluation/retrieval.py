"""Search by example: how high the training images of a test image's own class rank among all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.text import columns, percent
from ..features.knn import TILE, unit
from ..features.probes import FeatureProbe, ProbeOutputs, Rows
from .part import EvaluationPart
from .result import FEATURE_SETS

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalScore:
    """Mean average precision, and the share of queries with a hit among the first k, by k."""

    map: float
    recall: Mapping[int, float]


@dataclass(frozen=True)
class Retrieval(EvaluationPart):
    """One `RetrievalScore` a feature set."""

    rows: Mapping[str, RetrievalScore]

    @classmethod
    def measure(cls, probe: FeatureProbe, outputs: ProbeOutputs, truth: Rows, seed: int) -> RetrievalScore:
        """Measure one feature set: test images are the queries, training images what is searched."""
        return retrieval(outputs.x, truth, probe.x, probe.y.cpu().numpy())

    def to_json(self) -> dict[str, Any]:
        """Write the figures in plain values."""
        return {
            name: {"map": item.map, "recall": {str(k): value for k, value in item.recall.items()}}
            for name, item in self.rows.items()
        }

    def lines(self) -> list[str]:
        """Write a row a feature set."""
        cells = [
            [FEATURE_SETS.get(name, name), *map(percent, (item.map, *item.recall.values()))]
            for name, item in self.rows.items()
        ]
        heads = [f"a hit in the first {k}" if k > 1 else "the first a hit" for k in RANKS]
        return columns(["search by example", "mean precision", *heads], cells)


@torch.no_grad()
def retrieval(queries: torch.Tensor, truth: Rows, base: torch.Tensor, labels: Rows) -> RetrievalScore:
    """Rank all of `base` by cosine for each query, exactly, a tile at a time; a hit shares its class.

    Of rows that are equally alike, the wrong ones count as first.

    Args:
        queries: (q, d) floats.
        truth: (q,) int64, their classes, each with a row in `base` at least.
        base: (n, d) floats, on the same device.
        labels: (n,) int64, their classes.

    Returns:
        The mean over queries of the average precision, and of whether there is a hit among the first k
        (recall at k, as it is used in metric learning).
    """
    queries, turned = unit(queries), unit(base).T.contiguous()
    rank = np.arange(1, len(base) + 1, dtype=np.float32)
    precision, hits = 0.0, dict.fromkeys(RANKS, 0)
    step = max(1, TILE // (4 * len(base)))
    for low in range(0, len(queries), step):
        tile = (queries[low : low + step] @ turned).float().cpu().numpy()
        # The lowest bit of each similarity says whether it is a hit: numbers alone sort ten times faster
        # than numbers with their places, and only the bits are read afterwards. Of equal ones the wrong must
        # come first: the bit raises what is not below 0, and lowers what is.
        tile += 0.0  # no -0.0
        bits = tile.view(np.int32)
        bits &= ~1
        bits |= (labels == truth[low : low + step, None]) == (tile < 0)
        tile.sort(axis=1)
        hit = (((bits & 1) == 1) == (bits < 0))[:, ::-1]
        found = hit.cumsum(axis=1, dtype=np.int32)
        precision += float((found / rank * hit).sum(axis=1, dtype=np.float64) @ (1 / found[:, -1]))
        for k in RANKS:
            hits[k] += int(hit[:, :k].any(axis=1).sum())
    count = len(queries)
    return RetrievalScore(precision / count, {k: value / count for k, value in hits.items()})
