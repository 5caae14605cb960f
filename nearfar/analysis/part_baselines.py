"""What parts have to beat: pixels, whole vectors, and the difference to the nearest normal picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import rng
from ..data.source import Source
from ..features.chunked import CHUNK_IMAGES, read_chunks
from ..features.extract import features
from ..images.views import Preprocess
from ..models import Encoder
from .anomaly_detectors import K, detector

PIXELS, SIDE = 32, 256  # sides in pixels: of vectors of pixels, and of pictures that are compared
MOST = 1000  # normal pictures of which the nearest is looked for
BLUR = 5  # pixels a side over which a difference is averaged

Vectors = npt.NDArray[np.float32]


def encoded(net: nn.Module, source: Source, rows: Sequence[int], preprocess: Any) -> dict[int, Any]:
    """Encode some pictures of a collection, in chunks.

    Args:
        net: from the input to a vector.
        source: the collection.
        rows: which of it.
        preprocess: makes the input.

    Returns:
        Row to vector, of the pictures that can be read.
    """
    wanted, found = set(rows), {}
    starts = sorted({row // CHUNK_IMAGES * CHUNK_IMAGES for row in rows})
    for chunk in read_chunks(source, starts, preprocess, 2):
        vectors = features(net, chunk, preprocess, batch_size=32, threads=2)
        for row, vector in zip(chunk.kept.tolist(), vectors, strict=True):
            if row in wanted:
                found[row] = vector
    return found


def whole_pictures(
    net: nn.Module,
    preprocess: Any,
    normal: tuple[Source, Sequence[int]],
    asked: tuple[Source, Sequence[int]],
) -> dict[int, float]:
    """Score whole pictures by the distance to the k-th nearest normal one.

    Args:
        net: from the input to a vector.
        preprocess: makes the input.
        normal, asked: a collection and rows of it.

    Returns:
        Row to score, of the pictures that can be read.
    """
    base = np.stack(list(encoded(net, *normal, preprocess).values()))
    base = base if len(base) > 1 else np.concatenate([base, base])
    score = detector(base, "knn", min(K, len(base)))
    found = encoded(net, *asked, preprocess)
    return dict(zip(found, score(np.stack(list(found.values()))).tolist(), strict=True)) if found else {}


def pixels(normal: tuple[Source, Sequence[int]], asked: tuple[Source, Sequence[int]]) -> dict[int, float]:
    """Score whole pictures by their pixels; see `whole_pictures`."""
    return whole_pictures(nn.Flatten(), Preprocess(size=PIXELS, crop=1.0), normal, asked)


def vectors(
    encoder: Encoder,
    preprocess: Any,
    normal: tuple[Source, Sequence[int]],
    asked: tuple[Source, Sequence[int]],
) -> dict[int, float]:
    """Score whole pictures by the encoder's vectors; see `whole_pictures`."""
    return whole_pictures(encoder, preprocess, normal, asked)


class Differences:
    """Normal pictures in grey; the score is the blurred difference to the nearest."""

    def __init__(self, seed: int = 0) -> None:
        """Begin without pictures.

        Args:
            seed: names the pictures that are kept where there are too many.
        """
        self.key = rng.fold(seed, "pictures for differences")
        self._kept: list[tuple[float, Tensor]] = []

    def add(self, pictures: Iterator[Any]) -> None:
        """Add normal pictures.

        Args:
            pictures: with `x` (1, 3, h, w) in [0, 1].
        """
        for number, picture in enumerate(pictures):
            place = float(rng.uniform(self.key, [number], 1)[0, 0])
            self._kept.append((place, (255 * _grey(picture.x)).round().to(torch.uint8)))
            if len(self._kept) > 2 * MOST:
                self._kept = sorted(self._kept, key=lambda pair: pair[0])[:MOST]
        self._kept = sorted(self._kept, key=lambda pair: pair[0])[:MOST]

    def score(self, x: Tensor) -> Tensor:
        """Score the pixels of a picture.

        Args:
            x: (1, 3, h, w) in [0, 1].

        Returns:
            (256, 256) differences to the normal picture that is nearest by its pixels; the greatest is the
            picture's score.
        """
        asked = _grey(x)
        near = min((one for _, one in self._kept), key=lambda one: float((one / 255 - asked).abs().mean()))
        away = (near / 255 - asked).abs()
        return F.avg_pool2d(away[None, None], BLUR, 1, BLUR // 2, count_include_pad=False)[0, 0]


def _grey(x: Tensor) -> Tensor:
    """Reduce a picture to (256, 256) of grey."""
    weight = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    plain = (x * weight).sum(1, keepdim=True)
    return F.interpolate(plain, (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]
