"""Reads a collection for a store: digests every file, and decodes those whose content the store lacks."""

from __future__ import annotations

import io
from collections.abc import Container, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from PIL import Image

from ..core.errors import BadImage
from ..core.threads import map_in_order
from ..data.reading import fetch
from ..data.source import Pixels, Source
from ..features.chunked import CHUNK_IMAGES
from ..images import decode
from ..training.settings import Training

QUALITY = 85  # of thumbnails, as JPEG counts it


@dataclass(frozen=True)
class ReadImage:
    """One image as it was read.

    Attributes:
        row: its place in the source.
        digest: of its content, in hex; "" where it cannot be read.
        size: bytes of its file, or of its pixels.
        pixels: (H, W, 3) uint8, where the content is new.
        width, height: its own sides, upright.
        thumbnail: a JPEG file.
        bad: why it cannot be used.
    """

    row: int
    digest: str = ""
    size: int = 0
    pixels: Pixels | None = None
    width: int = 0
    height: int = 0
    thumbnail: bytes = b""
    bad: str = ""


class ImageReader:
    """Reads a collection image by image, or in chunks, each while the one before is in use."""

    def __init__(self, source: Source, short_side: int, thumbnail: int, workers: int) -> None:
        """Prepare to read.

        Args:
            source: the images.
            short_side: larger images are reduced to this short side, in pixels.
            thumbnail: the longer side of thumbnails, at most.
            workers: CPU threads.
        """
        self.source, self.short_side, self.thumbnail, self.workers = source, short_side, thumbnail, workers

    def one(self, row: int, known: Container[str] = ()) -> ReadImage:
        """Read one image, and decode it unless its digest is known."""
        digest = ""
        try:
            data, content = fetch(self.source, row, max_pixels=Training.max_pixels)
            digest = content.hex()
            size = data.nbytes if isinstance(data, np.ndarray) else len(data)
            if digest in known:
                return ReadImage(row, digest, size)
            pixels, width, height = _decoded(data, self.short_side)
            return ReadImage(row, digest, size, pixels, width, height, _small(data, pixels, self.thumbnail))
        except BadImage as error:
            return ReadImage(row, digest, bad=str(error))

    def chunks(self, known: Container[str]) -> Iterator[list[ReadImage]]:
        """Read everything.

        Args:
            known: digests of contents that need no decoding.

        Yields:
            Chunks of up to `CHUNK_IMAGES` images, in order.
        """
        rows, one = range(len(self.source)), partial(self.one, known=known)
        with closing(map_in_order(one, rows, threads=self.workers, ahead=CHUNK_IMAGES)) as found:
            while part := list(islice(found, CHUNK_IMAGES)):
                yield part


def _decoded(data: Pixels | bytes, short_side: int) -> tuple[Pixels, int, int]:
    """Decode an image to a short side, and say its own width and height."""
    if isinstance(data, np.ndarray):
        return decode.shrink(data, short_side), data.shape[1], data.shape[0]
    found = decode.picture(data, max_pixels=Training.max_pixels, short_side=short_side)
    width, height = found.width, found.height
    if (found.pixels.shape[0] > found.pixels.shape[1]) != (height > width):  # turned by its EXIF note
        width, height = height, width
    return found.pixels, width, height


def _small(data: Pixels | bytes, pixels: Pixels, most: int) -> bytes:
    """Make a thumbnail: from the pixels at hand, unless they are too few for it."""
    if max(pixels.shape[:2]) < most:
        if isinstance(data, np.ndarray):
            pixels = data
        else:
            pixels = decode.decode(data, max_pixels=Training.max_pixels, short_side=most, exact=False)
    image = Image.fromarray(pixels)
    image.thumbnail((most, most), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
