"""The encoder and uses of its vectors as scikit-learn estimators, for pipelines and grid searches."""

from .copies import DuplicateFinder
from .encoder import EncoderTransformer
from .tuned import FineTunedClassifier
from .vectors import AnomalyDetector, FewShotClassifier

__all__ = [
    "AnomalyDetector",
    "DuplicateFinder",
    "EncoderTransformer",
    "FewShotClassifier",
    "FineTunedClassifier",
]
