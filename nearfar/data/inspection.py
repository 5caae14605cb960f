"""Looks through a collection and says what is in it: sizes, formats, bad files and exact duplicates."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.errors import BadImage
from ..core.text import counted
from ..images import decode
from ..images.files import read
from ..images.header import is_deep_mode, read_header
from .dataset import equal_rows
from .folders import told
from .labels import is_split
from .modalities import modality_of
from .reading import Rejected, each, read_pixels
from .source import Pixels, Source
from .value_range import find_range

GLANCE = 32  # decoding to this short side finds what is broken, and lets a JPEG be decoded cheaply
SAMPLE = 1000  # images of which a glance is kept for who asks


@dataclass(frozen=True)
class Sides:
    """The least, median and greatest of the images' short sides or long sides, in pixels."""

    least: int
    median: int
    greatest: int


@dataclass(frozen=True)
class Inspection:
    """What is in a collection.

    `count` images of which `decoded` were decoded, or found to be bad before that; the others are known by
    their headers. `usable`: those not found to be bad; `rejected` with reasons; `short`, `long`: their sides
    (None where nothing is usable); `formats`, `modes`: how often each occurs, most often first; `bytes`: of
    the usable images as stored; `duplicates`: groups of ids with equal content; `labels`: images a class,
    where known; `masks`: files that were left out, since they are masks of images beside them; `others`: how
    many files of the folder are passed over, by their endings; `range`: the
    values that become black and white in images of more than 8 bits, None where there are none; `notes`: in
    how many of the decoded images only a part is used, and which; `captions`: those that cannot
    be used, with reasons; `modality`: what kind they are.
    """

    name: str
    count: int
    decoded: int
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
    others: dict[str, int] = dataclasses.field(default_factory=dict)
    range: tuple[float, float] | None = None
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    captions: tuple[Rejected, ...] = ()
    modality: str = "images"

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Say it in a few lines; of what is bad or double, the first five."""
        from .modalities import modality

        lines = [
            f"{self.name}: {counted(self.count, modality(self.modality).one)}, {self.usable:,} usable, "
            f"{self.bytes / 2**20:,.1f} MiB"
        ]
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
        some = self.decoded < self.count
        if some:
            lines.append(
                f"  decoded     {self.decoded:,} of {self.count:,}; of the others only the headers were read "
                "(--full decodes all)"
            )
        lines.append(f"  unusable    {len(self.rejected):,}{' found' if some else ''}")
        lines += _first(self.rejected)
        if self.captions:
            lines += [f"  captions    {len(self.captions):,} unusable", *_first(self.captions)]
        if self.masks:
            lines.append(f"  left out    {counted(len(self.masks), 'mask')} beside their images")
            lines += [f"    {name}" for name in self.masks[:5]]
        if said := told(self.others):
            lines += [f"  passed over {said[0]}", *(f"    {line}" for line in said[1:])]
        extra = sum(len(group) - 1 for group in self.duplicates)
        lines.append(f"  duplicates  {extra:,} exact, in {counted(len(self.duplicates), 'group')}")
        lines += [
            f"    {' = '.join(group[:4])}{' = ...' if len(group) > 4 else ''}"
            for group in self.duplicates[:5]
        ]
        if across := [group for group in self.duplicates if len(_splits_of(group)) > 1]:
            names = " and ".join(sorted({name for group in across for name in _splits_of(group)}))
            lines.append(
                f"    {counted(len(across), 'group')} across {names}: scores on copies of training images "
                "say nothing of new ones; remove them from one"
            )
        return "\n".join(lines)


def _first(rejected: tuple[Rejected, ...]) -> list[str]:
    """Name the first five of what cannot be used."""
    lines = [f"    {item.id}: {item.reason}" for item in rejected[:5]]
    more = len(rejected) - 5
    return lines + ([f"    and {more:,} more; --json names all"] if more > 0 else [])


def sample(count: int) -> npt.NDArray[np.int64]:
    """Draw the images that stand for all of a collection, in the order in which they are decoded.

    Args:
        count: images in all.

    Returns:
        Their rows, at most SAMPLE; the same for the same count.
    """
    return rng.permutation(rng.fold(0, "colours"), count)[:SAMPLE]


def inspect(
    source: Source,
    *,
    max_pixels: int,
    threads: int,
    seconds: float | None = None,
    glances: dict[str, Pixels] | None = None,
) -> Inspection:
    """Look at every image and keep nothing but what is said of it.

    Args:
        source: the images; opened with labels, they are counted by class.
        max_pixels: images of more pixels are called bad.
        threads: threads that read.
        seconds: how long to decode, about; None decodes every image. With a number every file's header is
            read first, and then images in random order are decoded until the time is over.
        glances: gets those of the `sample` that were decoded from files of 8 bits, by id, with a short side
            of GLANCE.

    Returns:
        An `Inspection`.
    """
    drawn = sample(len(source))
    look = _Look(source, max_pixels, glances, frozenset(drawn.tolist()))
    if seconds is None:
        each(len(source), look.decode, threads=threads, what="checking", noun=modality_of(source).noun)
    else:
        each(len(source), look.read_header, threads=threads, what="reading headers:")
        others = rng.permutation(rng.fold(0, "check"), len(source))
        order = np.concatenate([drawn, others[~np.isin(others, drawn)]])  # the sample first
        until = time.monotonic() + seconds

        def decode_in_time(at: int) -> None:
            row = int(order[at])
            if not look.decoded[row] and time.monotonic() < until:
                look.decode(row)

        each(len(source), decode_in_time, threads=threads, what="decoding:")
        alike = look.perhaps_equal()
        each(len(alike), lambda at: look.digest(int(alike[at])), threads=threads, what="comparing:")
    return look.summary()


def _splits_of(ids: Sequence[str]) -> set[str]:
    """Name the splits, such as train and test, in whose folders images lie."""
    return {first for name in ids for first in [name.split("/")[0]] if "/" in name and is_split(first)}


class _Look:
    """What is known of each image so far, by row."""

    def __init__(
        self,
        source: Source,
        max_pixels: int,
        glances: dict[str, Pixels] | None = None,
        drawn: frozenset[int] = frozenset(),
    ) -> None:
        count = len(source)
        self.glances, self.drawn = glances, drawn
        self.source, self.max_pixels = source, max_pixels
        self.sides = np.zeros((count, 2), dtype=np.int64)  # height, width
        self.sizes = np.zeros(count, dtype=np.int64)  # bytes as stored
        self.digests = np.zeros((count, 16), dtype=np.uint8)
        self.digested = np.zeros(count, dtype=bool)
        self.decoded = np.zeros(count, dtype=bool)  # or found to be bad without
        self.formats, self.modes = [""] * count, [""] * count
        self.remarks: dict[int, list[str]] = {}
        self.deep = np.zeros(count, dtype=bool)  # more than 8 bits
        self.reasons: dict[int, str] = {}  # of the bad ones

    def read_header(self, row: int) -> None:
        """Read one file's header; what comes as pixels is complete without it."""
        try:
            data = self.source.read(row)
            if isinstance(data, np.ndarray):
                self._pixels(row, data)
                return
            found = read_header(data, max_pixels=self.max_pixels)
            if isinstance(data, Path):
                self.sizes[row] = os.stat(data).st_size
            else:
                self._content(row, data)
        except BadImage as error:
            self._bad(row, error)
            return
        except OSError as error:
            self._bad(row, BadImage(f"unreadable: {(error.strerror or str(error)).lower()}"))
            return
        self.formats[row], self.modes[row] = found.format, found.mode
        self.sides[row], self.deep[row] = (found.height, found.width), is_deep_mode(found.mode)

    def decode(self, row: int) -> None:
        """Read and decode one image."""
        try:
            data = self.source.read(row)
            if isinstance(data, np.ndarray):
                self._pixels(row, data)
                return
            content = read(data, max_pixels=self.max_pixels) if isinstance(data, Path) else data
            picture = decode.picture(content, max_pixels=self.max_pixels, short_side=GLANCE)
        except BadImage as error:
            self._bad(row, error)
            return
        self._content(row, content)
        self.formats[row], self.modes[row] = picture.format, picture.mode
        self.sides[row], self.deep[row] = (picture.height, picture.width), is_deep_mode(picture.mode)
        self.remarks[row] = decode.remarks(content, max_pixels=self.max_pixels)
        self.decoded[row] = True
        if self.glances is not None and row in self.drawn and not self.deep[row]:  # whose range is not known
            self.glances[self.source.ids[row]] = picture.pixels

    def digest(self, row: int) -> None:
        """Read one file for its digest alone."""
        try:
            data = self.source.read(row)
            assert not isinstance(data, np.ndarray)
            self._content(row, read(data, max_pixels=self.max_pixels) if isinstance(data, Path) else data)
        except BadImage as error:
            self._bad(row, error)

    def perhaps_equal(self) -> npt.NDArray[np.int64]:
        """List the rows without a digest that another image equals in its bytes' number and its sides."""
        rows = np.array([row for row in range(len(self.sizes)) if row not in self.reasons], np.int64)
        keys = np.column_stack([self.sizes[rows], self.sides[rows]])
        _, group, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        found: npt.NDArray[np.int64] = rows[(counts[group.reshape(-1)] > 1) & ~self.digested[rows]]
        return found

    def _pixels(self, row: int, data: npt.NDArray[Any]) -> None:
        digest = read_pixels(self.source, row, short_side=None, max_pixels=self.max_pixels)[1]
        self.digests[row] = np.frombuffer(digest, dtype=np.uint8)
        self.formats[row], self.modes[row], self.sides[row] = "array", "RGB", data.shape[:2]
        self.sizes[row], self.digested[row], self.decoded[row] = data.nbytes, True, True
        self.deep[row] = data.dtype != np.uint8

    def _content(self, row: int, content: bytes) -> None:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        self.digests[row], self.sizes[row] = np.frombuffer(digest, dtype=np.uint8), len(content)
        self.digested[row] = True

    def _bad(self, row: int, error: BadImage) -> None:
        self.reasons[row], self.decoded[row] = str(error), True

    def summary(self) -> Inspection:
        """Say what was found."""
        source = self.source
        rows = [row for row in range(len(source)) if row not in self.reasons]
        known = [row for row in rows if self.digested[row]]
        ids = [source.ids[row] for row in known]
        groups = tuple(tuple(ids[at] for at in group) for group in equal_rows(self.digests[known]))
        return Inspection(
            name=source.name,
            count=len(source),
            decoded=int(self.decoded.sum()),
            usable=len(rows),
            rejected=tuple(Rejected(source.ids[row], self.reasons[row]) for row in sorted(self.reasons)),
            short=_sides(self.sides[rows].min(axis=1)) if rows else None,
            long=_sides(self.sides[rows].max(axis=1)) if rows else None,
            formats=dict(Counter(self.formats[row] for row in rows).most_common()),
            modes=dict(Counter(self.modes[row] for row in rows).most_common()),
            bytes=int(self.sizes[rows].sum()),
            duplicates=groups,
            labels=dict(Counter(source.labels).most_common()) if source.labels else None,
            masks=tuple(source.masks),
            others=dict(source.others),
            range=find_range(source, max_pixels=self.max_pixels) if self.deep[rows].any() else None,
            notes=dict(Counter(note for row in rows for note in self.remarks.get(row, ())).most_common()),
        )


def _sides(values: npt.NDArray[np.int64]) -> Sides:
    return Sides(int(values.min()), int(np.median(values)), int(values.max()))
