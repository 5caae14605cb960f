"""Reads a collection for a store: digests every file, and decodes those whose content the store lacks."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from ..core.errors import BadImage
from ..core.threads import map_in_order
from ..data.crops import Crops, Cut
from ..data.modalities import modality_of
from ..data.modality import Example
from ..data.source import FileSource, Source, clean, real_places
from ..features.chunked import CHUNK_IMAGES
from ..training.settings import Training


@dataclass(frozen=True)
class ReadImage:
    """One image as it was read.

    Attributes:
        row: its place in the source.
        digest: of its content, in hex; "" where it cannot be read.
        size: bytes of its file, or of its pixels.
        example: decoded, where the content is new.
        thumbnail: an image file; b"" where there is nothing to see.
        bad: why it cannot be used.
    """

    row: int
    digest: str = ""
    size: int = 0
    example: Example | None = None
    thumbnail: bytes = b""
    bad: str = ""


class ImageReader:
    """Reads a collection image by image, or in chunks, each while the one before is in use."""

    def __init__(self, source: Source, preprocess: Any, thumbnail: int, workers: int) -> None:
        """Prepare to read.

        Args:
            source: the images.
            preprocess: what the encoder that they are for needs; it says of which modality they are.
            thumbnail: the longer side of thumbnails, at most.
            workers: CPU threads.
        """
        self.source, self.thumbnail, self.workers = source, thumbnail, workers
        self.modality = modality_of(preprocess)
        self.preprocess = self.modality.with_range(preprocess, source, limit=Training.max_pixels)

    def one(self, row: int, known: Container[str] = ()) -> ReadImage:
        """Read one image, and decode it unless its digest is known."""
        digest, kind, limit = "", self.modality, Training.max_pixels
        try:
            data, content = kind.fetch(self.source, row, limit=limit)
            digest = content.hex()
            size = data.nbytes if isinstance(data, np.ndarray | Cut) else len(data)
            if digest in known:
                return ReadImage(row, digest, size)
            example = kind.decode(data, self.preprocess, limit=limit)
            picture = kind.thumbnail(data, example.value, self.thumbnail, self.preprocess, limit=limit)
            return ReadImage(row, digest, size, example, picture)
        except BadImage as error:
            return ReadImage(row, digest, bad=str(error))

    def chunks(
        self, known: Container[str] = (), rows: Sequence[int] | None = None, first: int | None = None
    ) -> Iterator[list[ReadImage]]:
        """Read everything, or some rows.

        Args:
            known: digests of contents that need no decoding.
            rows: of the source, those to read; default all.
            first: images of the first chunk; each is then twice as large, up to `CHUNK_IMAGES`.

        Yields:
            Chunks of up to `CHUNK_IMAGES` images, in order.
        """
        rows, one = range(len(self.source)) if rows is None else rows, partial(self.one, known=known)
        threads = max(self.workers, self.source.waiting)
        with closing(map_in_order(one, rows, threads=threads, ahead=CHUNK_IMAGES)) as found:
            size = CHUNK_IMAGES if first is None else first
            while part := list(islice(found, size)):
                yield part
                size = min(2 * size, CHUNK_IMAGES)


def paths_of(source: Source) -> list[str | None]:
    """Say where each image's file is, if it has one."""
    if isinstance(source, Crops):
        places = paths_of(source.photos)
        return [places[row] for row in source.photo.tolist()]
    if not isinstance(source, FileSource):
        return [None] * len(source)
    root = os.path.join(os.getcwd(), source.root)
    return list(clean(real_places(os.path.join(root, path) for path in source.paths)))
