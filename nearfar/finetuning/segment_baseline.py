"""The row "colour features" of a segmentation: gradient boosting on what the colours around a pixel tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ..core import rng
from ..data import pixel_labels
from ..data.pixel_labels import IGNORED
from ..features.pixel_features import colour_features

NAME = "colour features"
PIXELS = 30_000  # drawn from all training images together


class ColourFeatures:
    """Classifies pixels by the 16 numbers of `colour_features`; no network."""

    def __init__(self, side: int, classes: int, seed: int = 0) -> None:
        """Say how.

        Args:
            side: short side in pixels at which images are seen.
            classes: C.
            seed: names the draw of pixels.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        self.side, self.classes, self.seed = side, classes, seed
        self.model = HistGradientBoostingClassifier(random_state=seed % 2**32)

    def fit(self, images: Any, masks: Sequence[Any]) -> ColourFeatures:
        """Fit to images.

        Args:
            images: n, with `gather`.
            masks: n, whose `read()` gives class numbers.

        Returns:
            Itself.
        """
        share = -(-PIXELS // len(masks))
        x, y = [], []
        for row, mask in enumerate(masks):
            features, _ = self._features(images, row)
            wanted = pixel_labels.fitted(mask.read(), features.shape[:2], images.ids[row]).ravel()
            kept = np.flatnonzero(wanted != IGNORED)
            order = rng.permutation(rng.fold(self.seed, "pixels", row), len(kept))[:share]
            x.append(features.reshape(-1, features.shape[2])[kept[order]])
            y.append(wanted[kept[order]])
        known = np.concatenate(y)
        several = np.bincount(known)[known] > 1  # a class of one pixel cannot be held out and fitted too
        self.model.fit(np.concatenate(x)[several], known[several])
        return self

    def predict(self, images: Any) -> list[npt.NDArray[np.uint8]]:
        """Classify every pixel of each image, (h, w) at the image's size."""
        found = []
        for row in range(len(images)):
            features, (height, width) = self._features(images, row)
            classes = self.model.predict(features.reshape(-1, features.shape[2])).astype(np.uint8)
            found.append(
                pixel_labels.fitted(classes.reshape(features.shape[:2]), (height, width), images.ids[row])
            )
        return found

    def _features(self, images: Any, row: int) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
        """Give an image's features, (h, w, 16) at the short side, and its own height and width."""
        pixels = images.gather(np.array([row])).image(0)
        height, width = pixels.shape[:2]
        scale = self.side / min(height, width)
        shape = tuple(max(1, round(length * scale)) for length in (height, width))
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        x = F.interpolate(x, shape, mode="bilinear", antialias=True, align_corners=False)
        return colour_features(x)[0].permute(1, 2, 0).numpy(), (height, width)
