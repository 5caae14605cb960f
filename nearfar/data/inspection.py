"""Looks through a collection and says what is in it: sizes, formats, bad files and exact duplicates."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage
from ..images import decode
from ..images.files import read
from .dataset import equal_rows
from .reading import Rejected, each, read_pixels
from .source import Source
from .value_range import find_range

_GLANCE = 32  # decoding to this short side finds what is broken, and lets a JPEG be decoded cheaply


@dataclass(frozen=True)
class Sides:
    """The least, median and greatest of the images' short sides or long sides, in pixels."""

    least: int
    median: int
    greatest: int


@dataclass(frozen=True)
class Inspection:
    """What is in a collection.

    `count` images of which `usable` are; `rejected` with reasons; `short`, `long`: their sides (None where
    nothing is usable); `formats`, `modes`: how often each occurs, most often first; `bytes`: of the usable
    images as stored; `duplicates`: groups of ids with equal content; `labels`: images a class, where known;
    `masks`: files that were left out, since they are masks of images beside them.
    `range`: the values that become black and white in images of more than 8 bits, None where there are none;
    `notes`: in how many images only a part is used, and which.
    """

    name: str
    count: int
    usable: int
    rejected: tuple[Rejected, ...]
    short: Sides | None
    long: Sides | None
    formats: dict[str, int]
    modes: dict[str, int]
    bytes: int
    duplicates: tuple[tuple[str, ...], ...]
    labels: dict[str, int] | None
    masks: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    notes: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Say it in a few lines; of what is bad or double, the first five."""
        lines = [f"{self.name}: {self.count:,} images, {self.usable:,} usable, {self.bytes / 2**20:,.1f} MiB"]
        if self.short and self.long:
            short, long = (
                f"{s.least} to {s.greatest} px, median {s.median}" for s in (self.short, self.long)
            )
            lines += [f"  short side  {short}", f"  long side   {long}"]
        for title, counts in (("formats", self.formats), ("colours", self.modes), ("classes", self.labels)):
            if counts:
                shown = ", ".join(f"{name} {number:,}" for name, number in list(counts.items())[:10])
                lines.append(f"  {title:<10}  {shown}{', ...' if len(counts) > 10 else ''}")
        if self.range is not None:
            low, high = (f"{value:.10g}" for value in self.range)
            lines.append(f"  range       over 8 bits: values of {low} become black and {high} white")
        if self.notes:
            notes = ", ".join(f"{name} {count:,}" for name, count in self.notes.items())
            lines.append(f"  read as     {notes}")
        lines.append(f"  unusable    {len(self.rejected):,}")
        lines += [f"    {item.id}: {item.reason}" for item in self.rejected[:5]]
        if self.masks:
            lines.append(f"  left out    {len(self.masks):,} masks beside their images")
            lines += [f"    {name}" for name in self.masks[:5]]
        extra = sum(len(group) - 1 for group in self.duplicates)
        lines.append(f"  duplicates  {extra:,} exact, in {len(self.duplicates):,} groups")
        lines += [
            f"    {' = '.join(group[:4])}{' = ...' if len(group) > 4 else ''}"
            for group in self.duplicates[:5]
        ]
        return "\n".join(lines)


def inspect(source: Source, *, max_pixels: int, threads: int) -> Inspection:
    """Read and decode every image once, keeping nothing but what is said of it.

    Args:
        source: the images; opened with labels, they are counted by class.
        max_pixels: images of more pixels are called bad.
        threads: threads that read.

    Returns:
        An `Inspection`.
    """
    count, lock = len(source), threading.Lock()
    sides = np.zeros((count, 2), dtype=np.int64)
    digests = np.zeros((count, 16), dtype=np.uint8)
    good = np.zeros(count, dtype=bool)
    reasons: dict[int, str] = {}
    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    total, deep = 0, False

    def work(row: int) -> None:
        nonlocal total, deep
        try:
            data = source.read(row)
            if isinstance(data, np.ndarray):
                digest = read_pixels(source, row, short_side=None, max_pixels=max_pixels)[1]
                kind, mode, size, shape = "array", "RGB", data.nbytes, data.shape[:2]
                remarks, wide = [], data.dtype != np.uint8
            else:
                content = read(data, max_pixels=max_pixels) if isinstance(data, Path) else data
                picture = decode.picture(content, max_pixels=max_pixels, short_side=_GLANCE)
                digest = hashlib.blake2b(content, digest_size=16).digest()
                kind, mode, size = picture.format, picture.mode, len(content)
                shape = (picture.height, picture.width)
                remarks, wide = decode.remarks(content, max_pixels=max_pixels), picture.mode[0] in "IF"
        except BadImage as error:
            with lock:
                reasons[row] = str(error)
            return
        with lock:
            good[row], sides[row], digests[row] = True, shape, np.frombuffer(digest, dtype=np.uint8)
            formats[kind] += 1
            modes[mode] += 1
            notes.update(remarks)
            deep = deep or wide
            total += size

    each(count, work, threads=threads, what="checking")
    rows = np.flatnonzero(good).tolist()
    ids = [source.ids[row] for row in rows]
    groups = tuple(tuple(ids[at] for at in group) for group in equal_rows(digests[rows]))
    return Inspection(
        name=source.name,
        count=count,
        usable=len(rows),
        rejected=tuple(Rejected(source.ids[row], reasons[row]) for row in sorted(reasons)),
        short=_sides(sides[rows].min(axis=1)) if len(rows) else None,
        long=_sides(sides[rows].max(axis=1)) if len(rows) else None,
        formats=dict(formats.most_common()),
        modes=dict(modes.most_common()),
        bytes=total,
        duplicates=groups,
        labels=dict(Counter(source.labels).most_common()) if source.labels else None,
        masks=tuple(source.masks),
        range=find_range(source, max_pixels=max_pixels) if deep else None,
        notes=dict(notes.most_common()),
    )


def _sides(values: npt.NDArray[np.int64]) -> Sides:
    return Sides(int(values.min()), int(np.median(values)), int(values.max()))
