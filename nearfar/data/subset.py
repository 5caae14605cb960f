"""Some examples of a source, as a source of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .names import taken
from .source import Pixels, Source


@dataclass(frozen=True)
class SourceSubset(Source):
    """Some images of a source, as a source of their own."""

    of: Source
    rows: npt.NDArray[np.int64]

    @property
    def modality(self) -> str:
        """Name the kind of data."""
        return self.of.modality

    def read(self, index: int) -> bytes | Path | Pixels:
        """Fetch one image."""
        return self.of.read(int(self.rows[index]))

    def stamp(self, index: int) -> str:
        """Say what would change if the image did."""
        return self.of.stamp(int(self.rows[index]))


def subset_of(source: Source, rows: npt.NDArray[np.int64]) -> SourceSubset:
    """Keep some images of a source.

    Args:
        source: the whole.
        rows: (n,) rows of it.

    Returns:
        A source of n images.
    """
    labels = None if source.labels is None else tuple(source.labels[row] for row in rows.tolist())
    return SourceSubset(source.name, taken(source.ids, rows), labels, source, rows)
