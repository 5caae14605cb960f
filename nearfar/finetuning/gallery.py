"""Images of known individuals, among which a prediction looks for those on other images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from ..core.errors import NearfarError
from ..data.identity_labels import IdentityLabels
from ..data.modalities import modality_of
from ..features.chunked import CHUNK_IMAGES, read_chunks
from ..features.extract import Vectors, features
from ..images.files import MAX_PIXELS


class Gallery:
    """Images with identities; encoded once."""

    def __init__(self, labels: IdentityLabels) -> None:
        """Take the images; none is read yet."""
        self.labels, self.ids = labels, labels.source.ids
        self.x: Vectors | None = None
        self.rows = np.empty(0, np.int64)
        self.preprocess: Any = None

    def stamps(self) -> list[str]:
        """Say of each image what would change if it did, and who is on it."""
        source = self.labels.source
        return [
            f"{name} {source.stamp(row)} {who}"
            for row, (name, who) in enumerate(zip(self.ids, self.labels.identities, strict=True))
        ]

    def encode(self, net: nn.Module, preprocess: Any, how: Mapping[str, Any]) -> None:
        """Encode the images, unless that is done.

        Args:
            net: gives vectors of length 1.
            preprocess: what it needs.
            how: `device`, `threads` and `batch_size`.

        Raises:
            NearfarError: no image can be used.
        """
        if self.x is not None:
            return
        source, self.preprocess = self.labels.source, preprocess
        starts = range(0, len(source), CHUNK_IMAGES)
        parts, rows = [], []
        for chunk in read_chunks(source, starts, preprocess, how["threads"]):
            if len(chunk):
                parts.append(features(net, chunk, preprocess, **how))
                rows.append(chunk.kept)
        if not parts:
            raise NearfarError(f"none of the images of the gallery {source.name} can be used.")
        self.x, self.rows = np.concatenate(parts), np.concatenate(rows)

    def nearest(self, x: npt.NDArray[np.float32], count: int) -> list[tuple[str, float, int]]:
        """Find the images most like one.

        Args:
            x: (dim,) of length 1.
            count: how many, at most.

        Returns:
            Identity, cosine similarity and row of each, the most alike first.
        """
        assert self.x is not None
        similarity = self.x @ x
        best = np.argsort(-similarity, kind="stable")[:count]
        return [
            (self.labels.identities[self.rows[at]], float(similarity[at]), int(self.rows[at])) for at in best
        ]

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """Read one image."""
        kind, source = modality_of(self.preprocess), self.labels.source
        data, _ = kind.fetch(source, row, limit=MAX_PIXELS)
        return np.asarray(kind.decode(data, self.preprocess, limit=MAX_PIXELS).value)
