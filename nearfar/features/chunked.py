"""Reads a collection a chunk at a time, and keeps the result of each, so that a crash loses one chunk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..core.atomic import atomic_write
from ..core.errors import BadImage
from ..core.threads import map_in_order
from ..data.dataset import RaggedImages
from ..data.reading import read_pixels
from ..data.source import Source
from ..images.files import MAX_PIXELS

CHUNK_IMAGES = 1024  # images read at a time, and images whose work a crash can lose
Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """A chunk of images in memory, and those of it that could not be read."""

    kept: npt.NDArray[np.int64]
    block: RaggedImages
    bad: tuple[tuple[int, str], ...]

    def __len__(self) -> int:
        """Count the images that could be read."""
        return len(self.kept)

    def gather(self, rows: npt.NDArray[np.int64]) -> RaggedImages:
        """Give the pixels of some of them, by their place in the chunk."""
        b = self.block
        return RaggedImages(b.pixels, b.offset[rows], b.height[rows], b.width[rows])


def read_chunks(source: Source, starts: Sequence[int], short_side: int, threads: int) -> Iterator[Chunk]:
    """Decode chunks of a source in threads, each while the one before is in use.

    Args:
        source: the collection.
        starts: first rows of the chunks wanted, multiples of `CHUNK_IMAGES`.
        short_side: larger images are reduced to this short side, in pixels.
        threads: CPU threads.

    Yields:
        One `Chunk` a start, in order.
    """

    def one(row: int) -> Pixels | str:
        try:
            return read_pixels(source, row, short_side=short_side, max_pixels=MAX_PIXELS)[0]
        except BadImage as error:
            return str(error)

    parts = [range(low, min(low + CHUNK_IMAGES, len(source))) for low in starts]
    found = map_in_order(one, chain.from_iterable(parts), threads=threads, ahead=CHUNK_IMAGES)
    with closing(found):
        for rows in parts:
            yield ragged_chunk(rows, list(islice(found, len(rows))))


def ragged_chunk(rows: Sequence[int], results: Sequence[Pixels | str]) -> Chunk:
    """Put the images of a chunk in one buffer, and the reasons of those that cannot be used beside it.

    Args:
        rows: n rows of a source.
        results: the pixels of each, or why it cannot be used.

    Returns:
        The chunk.
    """
    good = [(row, image) for row, image in zip(rows, results, strict=True) if not isinstance(image, str)]
    sides = np.array([image.shape[:2] for _, image in good], np.int32).reshape(-1, 2)
    sizes = 3 * sides.astype(np.int64).prod(axis=1)
    block = RaggedImages(
        pixels=np.concatenate([image.reshape(-1) for _, image in good] or [np.empty(0, np.uint8)]),
        offset=np.cumsum(sizes) - sizes,
        height=sides[:, 0].copy(),
        width=sides[:, 1].copy(),
    )
    bad = tuple((row, reason) for row, reason in zip(rows, results, strict=True) if isinstance(reason, str))
    return Chunk(np.array([row for row, _ in good], np.int64), block, bad)


@dataclass(frozen=True)
class ChunkResult:
    """The outcome of one chunk, as it is kept until all are done."""

    kept: npt.NDArray[np.int64]
    vectors: Vectors
    bad: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.str_]


class Journal:
    """Finished chunks in a folder beside the output; another job's leftovers are cleared away."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        note = folder / "key.json"
        try:
            same = json.loads(note.read_text()) == {"key": key}
        except (OSError, ValueError):
            same = False
        if not same:
            for old in [note, *folder.glob("[0-9]*.npz")]:
                old.unlink(missing_ok=True)
            with atomic_write(note) as file:
                file.write(json.dumps({"key": key}).encode())

    def _path(self, low: int) -> Path:
        return self.folder / f"{low:010d}.npz"

    def get(self, low: int) -> ChunkResult | None:
        """Read a chunk, if it is there and whole."""
        try:
            with np.load(self._path(low), allow_pickle=False) as file:
                return ChunkResult(file["kept"], file["vectors"], file["bad"], file["reasons"])
        except Exception:  # a file damaged by a power cut is made again, whatever is wrong with it
            return None

    def put(self, low: int, part: ChunkResult) -> None:
        """Keep a chunk."""
        with atomic_write(self._path(low)) as file:
            np.savez(file, kept=part.kept, vectors=part.vectors, bad=part.bad, reasons=part.reasons)
