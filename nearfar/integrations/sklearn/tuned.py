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
from ...data.source import label_of
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
        network_: n inputs, as `preprocess_` makes them, to (n, c) logits.
        preprocess_: how an image becomes its input.
        columns_: (c,) where the network has each class.
        temperature_: by which logits are divided, so that probabilities are calibrated.
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
        if len(self.classes_) == 1:
            raise NearfarError(
                f"all images are of class {self.classes_.tolist()[0]!r}; add images of another."
            )
        names = _names(self.classes_)
        how = {"device": self.device, "seed": seed_of(self.random_state), **self._settings}
        with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:
            out = Path(folder) / "run" if self.out is None else Path(self.out)
            self.result_ = finetune(self.encoder, train=(X, [names[at] for at in numbers]), out=out, **how)
            tuned = open_tuned(out)
        task: Any = tuned.task
        self.columns_ = [task.classes.index(name) for name in names]
        self.network_ = nn.Sequential(tuned.network.f, tuned.network.head)
        self.preprocess_, self.temperature_ = tuned.run.preprocess, float(task.temperature)
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Give the probability of each class, calibrated on held-out images.

        Args:
            X: images.

        Returns:
            (n, c), rows that sum to 1.
        """
        check_is_fitted(self)
        where = None if self.device == "auto" else self.device
        logits = encode(self.network_, self.preprocess_, X, batch_size=256, device=where)
        return probabilities(np.atleast_2d(np.asarray(logits)), self.temperature_, False)[:, self.columns_]

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Name the likeliest class of each image, (n,)."""
        found: npt.NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found


def _names(labels: npt.NDArray[Any]) -> list[str]:
    """Name classes by their labels; by numbers where a label would not be read as it stands, such as null."""
    words = [str(label) for label in labels.tolist()]
    plain = len({*words}) == len(words) and all(label_of(word) == word for word in words)
    return words if plain else [f"class {number}" for number in range(len(words))]
