"""A support vector machine on the same features, a third classifier: strong on few and hand-made ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core import rng
from ..features.probes import FeatureProbe, ProbeOutputs, Rows
from .part import EvaluationPart

PENALTIES = (0.1, 1.0, 10.0, 100.0)  # values of C that are tried
MOST = 5000  # training images it learns from at most: its time grows with their square


class SupportVectors(EvaluationPart):
    """Radial basis functions on standardised features; C is chosen on the validation images."""

    @classmethod
    def classify(
        cls, probe: FeatureProbe, outputs: ProbeOutputs, seed: int
    ) -> tuple[Rows, Mapping[str, Any]] | None:
        """Fit on the training images, `MOST` of them at most, and answer for the test images.

        Source:
            Cortes and Vapnik 1995, "Support-vector networks"; scikit-learn's SVC and its gamma.
        """
        rows = np.sort(rng.permutation(rng.fold(seed, "support vectors"), len(probe.x))[:MOST])
        x, y, held = probe.x[rows].cpu().numpy(), probe.y[rows].cpu().numpy(), probe.validation[rows]
        asked = outputs.x.cpu().numpy()
        if len(np.unique(y)) < 2:
            return np.full(len(asked), y[0]), {"C": None}
        c = PENALTIES[0]
        if held.any() and len(np.unique(y[~held])) > 1:
            right = [float((_answers(x[~held], y[~held], c, x[held]) == y[held]).mean()) for c in PENALTIES]
            c = PENALTIES[int(np.argmax(right))]
        return _answers(x, y, c, asked), {"C": c, "images": len(rows)}


def _answers(x: Any, y: Rows, c: float, asked: Any) -> Rows:
    """Fit on (n, d) features with (n,) classes, and give the classes of (m, d) others."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    found: Rows = make_pipeline(StandardScaler(), SVC(C=c)).fit(x, y).predict(asked).astype(np.int64)
    return found
