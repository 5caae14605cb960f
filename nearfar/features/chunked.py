"""Reads a collection a chunk at a time, and keeps the result of each, so that a crash loses one chunk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.atomic import atomic_write
from ..core.errors import BadImage
from ..core.shapes import loads
from ..core.threads import map_in_order
from ..data.modalities import IMAGES, modality, modality_of
from ..data.source import Source
from ..images.files import MAX_PIXELS

CHUNK_IMAGES = 1024  # images read at a time, and images whose work a crash can lose
Vectors = npt.NDArray[np.float32]


class Bad(str):
    """Why an example cannot be used; a type of its own, since a text is an example of some modalities."""


@dataclass(frozen=True)
class Chunk:
    """A chunk of images in memory, and those of it that could not be read.

    `sizes` (n, 2) are the heights and widths that images had before they were reduced; None where not known.
    """

    kept: npt.NDArray[np.int64]
    block: Any
    bad: tuple[tuple[int, str], ...]
    sizes: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Count the images that could be read."""
        return len(self.kept)

    def gather(self, rows: npt.NDArray[np.int64]) -> Any:
        """Give some of them, by their opened in the chunk."""
        return self.block.take(rows)


def read_chunks(source: Source, starts: Sequence[int], preprocess: Any, threads: int) -> Iterator[Chunk]:
    """Decode chunks of a source in threads, each while the one before is in use.

    Args:
        source: the collection.
        starts: first rows of the chunks wanted, multiples of `CHUNK_IMAGES`.
        preprocess: what the encoder that they are for needs; it says of which modality they are.
        threads: CPU threads.

    Yields:
        One `Chunk` a start, in order.
    """

    kind = modality_of(preprocess)
    preprocess = kind.with_range(preprocess, source, limit=MAX_PIXELS)

    def one(row: int) -> Any:
        try:
            data, _ = kind.fetch(source, row, limit=MAX_PIXELS)
            return kind.decode(data, preprocess, limit=MAX_PIXELS)
        except BadImage as error:
            return Bad(str(error))

    parts = [range(low, min(low + CHUNK_IMAGES, len(source))) for low in starts]
    threads = max(threads, source.waiting)
    found = map_in_order(one, chain.from_iterable(parts), threads=threads, ahead=CHUNK_IMAGES)
    with closing(found):
        for rows in parts:
            results = list(islice(found, len(rows)))
            values = [item if isinstance(item, Bad) else item.value for item in results]
            chunk = ragged_chunk(rows, values, kind.name)
            good = [item.columns for item in results if not isinstance(item, Bad)]
            if good and {"height", "width"} <= {*good[0]}:
                sizes = np.array([(own["height"], own["width"]) for own in good], np.int64)
                chunk = dataclasses.replace(chunk, sizes=sizes)
            yield chunk


def ragged_chunk(rows: Sequence[int], results: Sequence[Any], kind: str = IMAGES) -> Chunk:
    """Put the examples of a chunk in one block, and the reasons of those that cannot be used next to it.

    Args:
        rows: n rows of a source.
        results: each example decoded, or `Bad`.
        kind: of data, by its name.

    Returns:
        The chunk.
    """
    good = [(row, value) for row, value in zip(rows, results, strict=True) if not isinstance(value, Bad)]
    bad = tuple((row, str(why)) for row, why in zip(rows, results, strict=True) if isinstance(why, Bad))
    block = modality(kind).collate([value for _, value in good])
    return Chunk(np.array([row for row, _ in good], np.int64), block, bad)


@dataclass(frozen=True)
class ChunkResult:
    """The outcome of one chunk, as it is kept until all are done."""

    kept: npt.NDArray[np.int64]
    vectors: Vectors
    bad: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.str_]


class Journal:
    """Finished chunks in a folder next to the output; another job's leftovers are cleared away."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        note = folder / "key.json"
        try:
            same = loads(note.read_text()) == {"key": key}
        except (OSError, ValueError):
            same = False
        if not same:
            self.clear()
            with atomic_write(note) as file:
                file.write(json.dumps({"key": key}).encode())

    def clear(self) -> None:
        """Remove the chunks and the note of their job, and nothing else."""
        chunks = "[0-9]" * 10 + ".npz"
        for pattern in (chunks, f"{chunks}.*.part", "key.json", "key.json.*.part"):
            for old in self.folder.glob(pattern):
                old.unlink(missing_ok=True)

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
