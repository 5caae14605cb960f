"""Groups of near copies among images, as a scikit-learn clusterer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin

from ...analysis import copy_threshold, duplicates
from ...core.device import cores
from ...core.errors import NearfarError
from ...data import cache
from ...data.dataset import ImageDataset
from ...data.modalities import IMAGES
from ...data.sources import open_source
from ...features.extract import features
from ...training.run import Run, load
from ...training.settings import Training


class DuplicateFinder(ClusterMixin, BaseEstimator):
    """Groups duplicate images, exact or near.

    Attributes:
        labels_: (n,) int64, the number of each image's group, the largest group first; -1 for an image
            that is there once.
        min_similarity_: the least similarity of near duplicates that was used.
        keep_: (n,) bool, false for images that can go: all of a group but its largest picture.
    """

    def __init__(self, run: Run | str | Path, *, min_similarity: float | None = None) -> None:
        """Note the parameters.

        Args:
            run: the run that says which images to compare, or its folder.
            min_similarity: least similarity of near duplicates, from 0 to 1; None: chosen by copies made of
                the images themselves.
        """
        self.run = run
        self.min_similarity = min_similarity

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the groups.

        Args:
            X: images, as an `EncoderTransformer` takes them.
            y: not used.

        Raises:
            NearfarError: the run is of another kind of data.
        """
        run = load(self.run)
        if run.preprocess.modality != IMAGES:
            kind = run.preprocess.modality
            raise NearfarError(
                f"DuplicateFinder compares images, and {run.name} is of {kind}; embed in a store, and call "
                "nearfar.duplicates."
            )
        dataset = cache.load(
            open_source(X),
            short_side=run.preprocess.decode_side,
            max_pixels=Training.max_pixels,
            max_bad=0,
            threads=cores(),
            value_range=run.preprocess.value_range,
            reducing=run.preprocess.reducing,
        )
        assert isinstance(dataset, ImageDataset)
        x = features(run.encoder, dataset, run.preprocess)
        images = duplicates.Collection.of(x, dataset)
        level = copy_threshold.calibrate(images, self.min_similarity)
        found = duplicates.duplicate_groups(
            images, (dataset.heights.astype(np.int64) * dataset.widths).tolist(), level.min_similarity
        )
        self.min_similarity_ = level.min_similarity
        self.labels_ = np.full(len(dataset), -1, np.int64)
        self.labels_[found.rows] = found.group
        self.keep_ = np.ones(len(dataset), np.bool_)
        self.keep_[found.rows] = found.keep
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
