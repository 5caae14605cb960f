"""Records what became of each image of a collection: where it lies, or why it was left out."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass

import numpy as np

from ..core.errors import NearfarError
from ..images.decode import DECODERS, USUAL, Reducing
from ..images.value_range import Range
from .dataset import ImageDataset, class_numbers, fingerprint
from .names import taken
from .reading import Rejected, check_of, read_pixels, too_many
from .source import Pixels, Source, stamps

_VERSION = 1  # of a cache's layout and of how pixels are decoded; part of its name
RECORD = np.dtype(
    [("row", "<i8"), ("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("digest", "u1", (16,))]
)


@dataclass(frozen=True)
class ReadConfig:
    """How images are read: the arguments of `cache.load` that decide what is stored."""

    source: Source
    short_side: int | None
    max_pixels: int
    max_bad: float
    threads: int
    value_range: Range | None = None
    reducing: Reducing = USUAL

    def read(self, row: int) -> tuple[Pixels, bytes]:
        """Read one image and its digest; raises BadImage."""
        return read_pixels(
            self.source,
            row,
            short_side=self.short_side,
            max_pixels=self.max_pixels,
            value_range=self.value_range,
            reducing=self.reducing,
        )

    def name(self) -> str:
        """Name the collection after its images' stamps and how they are stored: same name, same pixels."""
        how = f"{_VERSION}:{DECODERS}:{self.short_side}:{self.max_pixels}"
        if self.value_range is not None:
            how += f":{self.value_range}"
        if self.reducing != USUAL:
            how += f":{self.reducing}"
        mark = hashlib.blake2b(how.encode(), digest_size=16)
        for rows, made in stamps(self.source):
            names = self.source.ids[rows.start : rows.stop]
            mark.update(
                "".join([f"\0{name}\0{stamp}" for name, stamp in zip(names, made, strict=True)]).encode()
            )
        return mark.hexdigest()


class Ledger:
    """What became of each row: a record of where it lies, or a reason; filled from several threads."""

    def __init__(self, config: ReadConfig) -> None:
        """Start with nothing recorded."""
        self.config, self.lock = config, threading.Lock()
        self.records = np.zeros(len(config.source), dtype=RECORD)
        self.records["row"] = -1
        self.reasons: dict[int, str] = {}

    def reject(self, row: int, reason: str) -> None:
        """Leave a row out; raises NearfarError where that is one too many."""
        with self.lock:
            self.reasons[row] = reason
            self.check()

    def check(self) -> None:
        """Raise NearfarError where more rows are bad than allowed."""
        if len(self.reasons) > self.config.max_bad * len(self.records):
            too_many(self.config.source, self.rejected(), len(self.records), self.config.max_bad)

    def rejected(self) -> tuple[Rejected, ...]:
        """List the rows left out, in the source's order."""
        return tuple(Rejected(self.config.source.ids[row], self.reasons[row]) for row in sorted(self.reasons))

    def dataset(self, pixels: Pixels, *, resident: bool) -> ImageDataset:
        """Keep the good rows, and name the whole by its content.

        Args:
            pixels: the buffer that the records point into.
            resident: whether it is in memory.

        Returns:
            The data set of the good rows.

        Raises:
            NearfarError: there are none.
        """
        source, good = self.config.source, self.records[self.records["row"] >= 0]
        if not len(good):
            first = next(iter(self.rejected()), None)
            reason = f" ({first.id}: {first.reason})" if first else ""
            raise NearfarError(f"{source.name} holds no usable image{reason}; {check_of(source)}")
        rows = good["row"].tolist()
        ids = taken(source.ids, good["row"])
        digests = np.ascontiguousarray(good["digest"])
        labels, classes = class_numbers(source.labels and [source.labels[row] for row in rows])
        pixels = pixels.view(np.ndarray)
        pixels.flags.writeable = False
        return ImageDataset(
            ids=ids,
            labels=labels,
            classes=classes,
            fingerprint=fingerprint(ids, digests),
            resident=resident,
            rejected=self.rejected(),
            pixels=pixels,
            offsets=np.ascontiguousarray(good["offset"]),
            heights=np.ascontiguousarray(good["height"]),
            widths=np.ascontiguousarray(good["width"]),
            digests=digests,
        )

    def record(self, row: int, offset: int, pixels: Pixels, digest: bytes) -> None:
        """Note where a good row lies."""
        height, width = pixels.shape[:2]
        self.records[row] = (row, offset, height, width, np.frombuffer(digest, np.uint8))
