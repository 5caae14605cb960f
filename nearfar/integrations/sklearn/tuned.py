"""A fine-tuning as a scikit-learn classifier: learns classes from images, and names those of others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ...core.errors import NearfarError
from ...features.encode import encode
from ...finetuning.calibrate import probabilities
from ...finetuning.finetune import finetune
from ...finetuning.tuned import open_tuned
from .settings import SettingsEstimator, seed_of


class FineTunedClassifier(ClassifierMixin, SettingsEstimator):
    """Trains a classifier on an encoder, and with it the encoder itself if `mode` is "full".

    Images are given as to an `EncoderTransformer`. For several labels an image use `nearfar.finetune`.

    Attributes:
        classes_: (c,) the labels.
        result_: what `nearfar.finetune` found on held-out images.
        tuned_: the network, ready to predict.
    """

    def __init__(
        self,
        encoder: Any = "known",
        *,
        out: str | Path | None = None,
        device: str = "auto",
        random_state: Any = 0,
        **settings: Any,
    ) -> None:
        """Note the settings; nothing is done before `fit`.

        Args:
            encoder: to start from: a run, its folder, or a known encoder such as timm:resnet18.
            out: the new run's folder, which `fit` resumes if it is unfinished; without it nothing is kept.
            device: "auto", "cpu", "cuda" or "mps".
            random_state: scikit-learn's name for the seed.
            **settings: any setting of `nearfar.finetune` by name, such as `mode` and `epochs`.
        """
        self.encoder = encoder
        self.out = out
        self.device = device
        self.random_state = random_state
        self._settings = settings

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from labelled images.

        Args:
            X: images.
            y: (n,) labels, one an image, of two classes at least.

        Raises:
            NearfarError: something the user can fix.
        """
        if self._settings.get("multi_label"):
            raise NearfarError("a FineTunedClassifier names one class an image; use nearfar.finetune.")
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        width = len(str(len(self.classes_)))  # so that the names sort as the classes do
        names = [f"{number:0{width}d}" for number in numbers]
        how = {"device": self.device, "seed": seed_of(self.random_state), **self._settings}
        with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:
            out = Path(folder) / "run" if self.out is None else Path(self.out)
            self.result_ = finetune(self.encoder, train=(X, names), out=out, **how)
            self.tuned_ = open_tuned(out)
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Give the probability of each class, calibrated on held-out images.

        Args:
            X: images.

        Returns:
            (n, c), rows that sum to 1.
        """
        check_is_fitted(self)
        network, where = self.tuned_.network, None if self.device == "auto" else self.device
        both = nn.Sequential(network.f, network.head)
        logits = encode(both, self.tuned_.run.preprocess, X, batch_size=256, device=where)
        task: Any = self.tuned_.task
        return probabilities(np.atleast_2d(np.asarray(logits)), task.temperature, False)

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Name the likeliest class of each image, (n,)."""
        found: npt.NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags
