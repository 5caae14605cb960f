"""Clusters without labels: whether k-means on the test features finds the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..analysis.clusters import kmeans
from ..core import progress
from ..core.text import columns, percent
from ..features.knn import unit
from ..features.probes import FeatureProbe, ProbeOutputs, Rows
from .part import EvaluationPart
from .result import FEATURE_SETS


@dataclass(frozen=True)
class Agreement:
    """How clusters agree with classes.

    Attributes:
        accuracy: share of images in the right cluster, under the best one-to-one match.
        nmi: normalised mutual information, by the arithmetic mean of the entropies.
        ari: adjusted Rand index; 0 for chance.
    """

    accuracy: float
    nmi: float
    ari: float


@dataclass(frozen=True)
class ClusterAgreement(EvaluationPart):
    """One `Agreement` a feature set."""

    rows: Mapping[str, Agreement]

    @classmethod
    def measure(cls, probe: FeatureProbe, outputs: ProbeOutputs, truth: Rows, seed: int) -> Agreement | None:
        """Measure one feature set: as many clusters of the test images as there are classes among them."""
        count = len(np.unique(truth))
        if count < 2:  # the one cluster would be the one class, whatever the features
            progress.say("the test images are of one class, so clusters are not measured.")
            return None
        return agreement(truth, kmeans(unit(outputs.x).cpu().numpy(), count, seed))

    def lines(self) -> list[str]:
        """Write a row a feature set."""
        cells = [
            [FEATURE_SETS.get(name, name), percent(item.accuracy), f"{item.nmi:.3f}", f"{item.ari:.3f}"]
            for name, item in self.rows.items()
        ]
        return columns(["k-means clusters", "accuracy", "NMI", "ARI"], cells)


def agreement(truth: Rows, found: Rows) -> Agreement:
    """Compare clusters with classes.

    Args:
        truth: (n,) class numbers.
        found: (n,) cluster numbers.

    Returns:
        The three figures.

    Source:
        The match: Kuhn 1955, "The Hungarian method for the assignment problem". The adjusted Rand index:
        Hubert and Arabie 1985, "Comparing partitions".
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    table = np.zeros((truth.max() + 1, found.max() + 1), np.int64)
    np.add.at(table, (truth, found), 1)
    match = linear_sum_assignment(table, maximize=True)
    return Agreement(
        accuracy=float(table[match].sum() / len(truth)),
        nmi=float(normalized_mutual_info_score(truth, found)),
        ari=float(adjusted_rand_score(truth, found)),
    )
