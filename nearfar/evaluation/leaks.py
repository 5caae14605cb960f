"""Finds test images that are (near-)copies of training images: resized, recoloured, shifted or mirrored.

Features say which training images to look at, pixels decide. Candidates are the nearest few by the encoder
and by raw pixels; a candidate is a near-copy if the fine structure of both, at 16 x 16 pixels, is the same
at the best of a few shifts, mirrored or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..analysis.pixel_similarity import fine, pixel_similarity
from ..data.dataset import ImageDataset, Subset
from ..data.modality import modality_of
from ..features.probes import Rows

MIN_SIMILARITY = 0.85  # correlation from which a pair counts as near-copies; see docs/evaluation.md


@dataclass(frozen=True)
class CopyMatches:
    """What was found for each of m test images.

    Attributes:
        row: (m,) int64, the most similar training image, if it is a copy or near-copy; else -1.
        similarity: (m,) float32 from -1 to 1, of the best candidate.
        same: (m,) bool, whether a training image is the same byte for byte.
    """

    row: Rows
    similarity: npt.NDArray[np.float32]
    same: npt.NDArray[np.bool_]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(m,) bool: copies and near-copies."""
        return self.row >= 0

    def pairs(self, test: ImageDataset, train: ImageDataset) -> list[tuple[str, str, float]]:
        """Name each copy, its original and their similarity, the most similar first."""
        found = np.flatnonzero(self.known)
        found = found[np.argsort(-self.similarity[found], kind="stable")]
        return [
            (test.ids[at], train.ids[int(self.row[at])], round(float(self.similarity[at]), 3))
            for at in found.tolist()
        ]


def near_copies(test: ImageDataset, train: ImageDataset, candidates: Rows) -> CopyMatches:
    """Find the test images that are copies or near-copies of training images.

    Args:
        test: m images.
        train: the training images.
        candidates: (m, c) int64, rows of `train` to compare each with.

    Returns:
        What was found; a byte-identical training image is found also where it is no candidate.
    """
    rows, place = np.unique(candidates, return_inverse=True)
    own = np.arange(len(test)).repeat(candidates.shape[1])
    if modality_of(train).pictures:
        flat = pixel_similarity(fine(test), fine(Subset(train, rows)), own, place.reshape(-1))
    else:  # of other kinds, only what is the same byte for byte is known
        flat = np.full(candidates.size, -1, np.float32)
    found = flat.reshape(candidates.shape)
    best = found.argmax(axis=1)[:, None]
    most = np.take_along_axis(found, best, 1)[:, 0]
    row = np.where(most >= MIN_SIMILARITY, np.take_along_axis(candidates, best, 1)[:, 0], -1)
    first = {digest.tobytes(): at for at, digest in reversed(list(enumerate(train.digests)))}
    equal = np.array([first.get(digest.tobytes(), -1) for digest in test.digests], np.int64)
    same = equal >= 0
    return CopyMatches(np.where(same, equal, row), np.where(same, np.float32(1), most), same)
