"""An encoder as a scikit-learn transformer: trains on images, and turns images into vectors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ...core.errors import NearfarError
from ...training.pretrain import pretrain
from ...training.resolve import needs_labels
from ...training.run import Run, export, load
from .settings import SettingsEstimator, seed_of


class EncoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, SettingsEstimator):
    """Learns an encoder from images, and turns images into vectors.

    Images are a list of paths, of Pillow images, of arrays or tensors; or one array (n, h, w, 3) of uint8; or
    whatever else `nearfar.pretrain` takes.

    Attributes:
        run_: the finished run.
    """

    def __init__(
        self,
        method: str = "simclr",
        recipe: str = "auto",
        *,
        out: str | Path | None = None,
        device: str = "auto",
        random_state: Any = 0,
        **settings: Any,
    ) -> None:
        """Note the settings; nothing is done before `fit`.

        Args:
            method: the self-supervised method.
            recipe: settings to start from.
            out: the run's folder, which `fit` resumes if it is unfinished; without it nothing is kept on
                disk, and `save` writes the encoder.
            device: "auto", "cpu", "cuda" or "mps".
            random_state: scikit-learn's name for the seed, which its tools set by this name.
            **settings: any setting of a run by name, as for `nearfar.pretrain`, such as `minutes`.
        """
        self.method = method
        self.recipe = recipe
        self.out = out
        self.device = device
        self.random_state = random_state
        self._settings = settings

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from images.

        Args:
            X: images.
            y: one label an image; used by a method that learns from labels, and by no other.

        Raises:
            NearfarError: something the user can fix.
        """
        labelled = needs_labels(self.method, self._settings)
        if labelled and y is None and not isinstance(X, (str, Path)):
            raise NearfarError(f"{self.method} learns from labels; give one for each image, as fit(X, y).")
        data = (X, y) if labelled and y is not None else X
        how = {"device": self.device, "seed": seed_of(self.random_state), **self._settings}
        with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:
            out = folder if self.out is None else self.out
            self.run_ = pretrain(data, out=out, method=self.method, recipe=self.recipe, **how)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Turn images into vectors.

        Args:
            X: images.

        Returns:
            (n, d) float32.
        """
        check_is_fitted(self)
        found = self.run_.encode(X, batch_size=256, device=None if self.device == "auto" else self.device)
        return np.atleast_2d(found)

    def save(self, folder: str | Path) -> None:
        """Write the encoder into a folder, from which `EncoderTransformer.load` and `nearfar.load` read it.

        Args:
            folder: a new one, or one to replace the encoder of.
        """
        check_is_fitted(self)
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        export(place, self.run_.encoder, self.run_.preprocess, self.run_.provenance)

    @classmethod
    def load(cls, run: Run | str | Path) -> Self:
        """Make a fitted estimator of a finished run.

        Args:
            run: the run, or its folder.
        """
        run = load(run)
        made = cls(run.provenance.get("method", "simclr"), run.provenance.get("recipe", "auto"))
        made.run_ = run
        return made

    @property
    def _n_features_out(self) -> int:
        return self.run_.encoder.dim
