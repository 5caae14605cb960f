"""The encoder and uses of its vectors as scikit-learn estimators, for pipelines and grid searches."""

from .copies import DuplicateFinder
from .encoder import Encoder
from .vectors import AnomalyDetector, FewShotClassifier

__all__ = ["AnomalyDetector", "DuplicateFinder", "Encoder", "FewShotClassifier"]
