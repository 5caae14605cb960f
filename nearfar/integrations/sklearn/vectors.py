"""scikit-learn estimators on vectors: few-shot classification, and anomaly detection."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, OutlierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ...analysis import anomalies, anomaly_detectors, few_shot
from ...core import rng
from .settings import seed_of

Array = npt.NDArray[Any]


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Gives each row the class whose examples' mean is nearest by cosine, or none where it is far.

    The mean of the classes' means is the origin. It takes vectors, such as those of an `EncoderTransformer`
    before it in a pipeline.

    Attributes:
        classes_: (c,) the labels.
        prototypes_: (c, d) float32, a unit row a class.
        middle_: (d,) float32, the origin.
        threshold_: the similarity below which a row is of no class; None where every row gets a class.
    """

    def __init__(self, *, outlier_label: Any = None, reject: float = 0.05) -> None:
        """Note the parameters.

        Args:
            outlier_label: what `predict` says of rows that are like no class; None to name one always.
            reject: share of rows of these classes that may be left unclassified, at most.
        """
        self.outlier_label = outlier_label
        self.reject = reject

    def fit(self, X: Any, y: Any) -> Self:
        """Average the examples of each class.

        Args:
            X: (n, d) floats.
            y: (n,) labels.
        """
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.middle_ = few_shot.mean_of_classes(X, labels, len(self.classes_))
        shown = few_shot.centred(X, self.middle_)
        self.prototypes_ = few_shot.prototypes(shown, labels, len(self.classes_))
        known = few_shot.left_out_similarity(shown, labels, len(self.classes_))
        self.threshold_ = None if self.outlier_label is None else few_shot.threshold(known, self.reject)
        return self

    def _similarity(self, X: Any) -> npt.NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return few_shot.centred(X, self.middle_) @ self.prototypes_.T

    def predict(self, X: Any) -> Array:
        """Name the class of each row.

        Args:
            X: (n, d) floats.

        Returns:
            (n,) labels, or `outlier_label`.
        """
        cosines = self._similarity(X)
        named = self.classes_[cosines.argmax(axis=1)]
        if self.threshold_ is None:
            return named
        far = cosines.max(axis=1) < self.threshold_
        return np.where(far, np.asarray(self.outlier_label), named)

    def score_samples(self, X: Any) -> npt.NDArray[np.float32]:
        """Tell how like its nearest class each row is: the cosine, higher is more like.

        Args:
            X: (n, d) floats.
        """
        return self._similarity(X).max(axis=1)


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Tells rows that are unlike the normal ones it was fitted on, with a guaranteed false-positive rate.

    Half of the rows fit the detector; the other half, held out, sets the threshold. It takes vectors, such as
    those of an `EncoderTransformer` before it in a pipeline. As everywhere in scikit-learn a higher score is
    more normal, the opposite of `nearfar.analysis.anomalies`; `predict` says 1 for normal, -1 for anomalous.

    Attributes:
        normal_: (n, d) float32, the rows that fit the detector.
        offset_: `score_samples` below which a row is anomalous.
        seed_: what `random_state` came to.
    """

    def __init__(
        self, *, method: str = "knn", k: int = anomaly_detectors.K, fpr: float = 0.05, random_state: Any = 0
    ) -> None:
        """Note the parameters.

        Args:
            method: "knn", "mahalanobis" or "forest".
            k: the neighbour whose distance counts, for "knn".
            fpr: false-positive rate: share of normal rows that may be called anomalous. Fewer than
                1 / fpr - 1 rows held out cannot guarantee it; what scores above all of them is then called
                anomalous.
            random_state: random seed of the halves and the trees.
        """
        self.method = method
        self.k = k
        self.fpr = fpr
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what is normal.

        Args:
            X: (n, d) floats, all of them normal, or nearly all; 4 rows at least.
            y: not used.
        """
        X = validate_data(self, X, dtype=np.float32, ensure_min_samples=4)
        self.seed_ = seed_of(self.random_state)
        order = rng.permutation(rng.fold(self.seed_, "halves"), len(X))
        fitted, held = np.split(order, [len(X) // 2])
        self.normal_ = X[fitted]
        scores = self._anomaly_score(X[held])
        enough = self.fpr * (len(held) + 1) >= 1
        limit = anomalies.threshold(scores, self.fpr).value if enough else float(scores.max())
        self.offset_ = -limit
        return self

    def _anomaly_score(self, X: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        # Made from the rows each time, so that nothing but arrays has to be kept and sent about.
        k = min(self.k, len(self.normal_))
        return anomaly_detectors.detector(self.normal_, self.method, k, self.seed_)(X)

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        """Tell how normal each row is: higher is more normal.

        Args:
            X: (n, d) floats.
        """
        check_is_fitted(self)
        return -self._anomaly_score(validate_data(self, X, dtype=np.float32, reset=False))

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Tell how far each row is from being anomalous; below 0 it is.

        Args:
            X: (n, d) floats.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Say 1 of normal rows and -1 of anomalous ones.

        Args:
            X: (n, d) floats.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)
