"""Reads a collection for a store: digests every file, and decodes those whose content the store lacks."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import BadImage
from ..data.modality import Example, modality_of
from ..data.source import Source
from ..features.chunked import LENGTH
from ..training.settings import Training


@dataclass(frozen=True)
class Seen:
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


class Reader:
    """Reads a collection image by image, or in stretches, each while the one before is in use."""

    def __init__(self, source: Source, preprocess: Any, thumbnail: int, threads: int) -> None:
        """Prepare to read.

        Args:
            source: the images.
            preprocess: what the encoder that they are for needs; it says of which modality they are.
            thumbnail: the longer side of thumbnails, at most.
            threads: CPU threads.
        """
        self.source, self.preprocess, self.thumbnail, self.threads = source, preprocess, thumbnail, threads
        self.modality = modality_of(preprocess)

    def one(self, row: int, known: Container[str] = ()) -> Seen:
        """Read one image, and decode it unless its digest is known."""
        digest, kind, limit = "", self.modality, Training.max_pixels
        try:
            data, content = kind.fetch(self.source, row, limit=limit)
            digest = content.hex()
            size = data.nbytes if isinstance(data, np.ndarray) else len(data)
            if digest in known:
                return Seen(row, digest, size)
            example = kind.decode(data, self.preprocess, limit=limit)
            picture = kind.thumbnail(data, example.value, self.thumbnail, limit=limit)
            return Seen(row, digest, size, example, picture)
        except BadImage as error:
            return Seen(row, digest, bad=str(error))

    def stretches(self, known: Container[str]) -> Iterator[list[Seen]]:
        """Read everything.

        Args:
            known: digests of contents that need no decoding.

        Yields:
            Stretches of up to `stretches.LENGTH` images, in order.
        """
        starts = deque(range(0, len(self.source), LENGTH))
        running: deque[list[Future[Seen]]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                while starts or running:
                    while starts and len(running) < 2:
                        low = starts.popleft()
                        part = range(low, min(low + LENGTH, len(self.source)))
                        running.append([pool.submit(self.one, row, known) for row in part])
                    yield [future.result() for future in running.popleft()]
            finally:
                pool.shutdown(cancel_futures=True)
