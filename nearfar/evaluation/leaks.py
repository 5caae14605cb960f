"""Finds test images that are copies of training images: resized, recoloured, shifted, mirrored or turned.

Features say which training images to look at, pixels decide. Candidates are the nearest few by the encoder
and by raw pixels. A candidate is a near-copy if it differs little at the place where the two differ most,
once one is laid upon the other; how little is measured on copies made of the training images. Whole pictures
are also compared by their structure, turned by quarters or not. Texts are compared by their words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis.copy_threshold import LEAST, calibrate
from ..analysis.duplicates import Collection, duplicate_pairs
from ..analysis.split_copies import split_copies
from ..analysis.text_copies import Texts, TextThreshold
from ..data.dataset import ImageDataset, Subset
from ..data.modalities import modality_of
from ..features.probes import Rows

LARGEST = 200_000  # training images, at most, whose structure is compared: a minute and a half, 1 GB


@dataclass(frozen=True)
class CopyMatches:
    """What was found for each of m test images.

    Attributes:
        row: (m,) int64, the most similar training image, if it is a copy or near-copy; else -1.
        similarity: (m,) float32 from 0 to 1, of the best candidate.
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


def near_copies(
    test: ImageDataset, train: ImageDataset, candidates: Rows, preprocess: Any = None
) -> CopyMatches:
    """Find the test images that are copies or near-copies of training images.

    Args:
        test: m images.
        train: the training images.
        candidates: (m, c) int64, rows of `train` to compare each with; texts choose their own, and
            whole pictures are compared with those of a like structure too, of up to `LARGEST`.
        preprocess: how texts were split into tokens.

    Returns:
        What was found; a byte-identical training image is found also where it is no candidate.
    """
    own, least = np.arange(len(test)).repeat(candidates.shape[1]), 1.0
    if modality_of(train).name == "text":
        from ..text.tokenizer import texts_of

        mine, theirs = (Texts.of(texts_of(some, preprocess.tokenizer)) for some in (test, train))
        pairs = duplicate_pairs(mine, theirs, TextThreshold().min_similarity)
        candidates, flat = np.full((len(test), 1), -1), np.full(len(test), -1, np.float32)
        candidates[pairs.a[::-1], 0], flat[pairs.a[::-1]] = pairs.b[::-1], pairs.similarity[::-1]  # best last
        least = 0.0
    elif modality_of(train).pictures:
        rows, place = np.unique(candidates, return_inverse=True)
        asked, originals = Collection.of(None, test), Collection.of(None, Subset(train, rows))
        flat = asked.similarity(originals, own, place.reshape(-1))
        if flat.max(initial=0) >= LEAST:  # else nothing could be a copy, whatever the threshold
            least = calibrate(originals).min_similarity
    else:  # of sounds, only what is the same byte for byte is known
        flat = np.full(candidates.size, -1, np.float32)
    found = flat.reshape(candidates.shape)
    best = found.argmax(axis=1)[:, None]
    most = np.take_along_axis(found, best, 1)[:, 0]
    row = np.where(most >= least, np.take_along_axis(candidates, best, 1)[:, 0], -1)
    if modality_of(train).pictures and len(train) <= LARGEST:
        whole = split_copies(Collection.of(None, test), Collection.of(None, train))
        for at, to, similarity in zip(*whole, strict=True):
            if row[at] < 0:
                row[at], most[at] = to, similarity
    first = {digest.tobytes(): at for at, digest in reversed(list(enumerate(train.digests)))}
    equal = np.array([first.get(digest.tobytes(), -1) for digest in test.digests], np.int64)
    same = equal >= 0
    return CopyMatches(np.where(same, equal, row), np.where(same, np.float32(1), most), same)
