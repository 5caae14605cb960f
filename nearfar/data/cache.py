"""Decodes a collection once: into memory if it is small, else into a cache on disk that training maps."""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path

import numpy as np

from ..core.cache_root import cache_root
from ..core.errors import BadImage
from ..core.memory import available
from ..core.progress import say
from ..images import decode
from ..images.header import stored_shape
from ..images.value_range import Range
from .dataset import FileDataset, ImageDataset, class_numbers
from .disk_cache import open_or_make
from .ledger import Ledger, ReadConfig
from .reading import each
from .source import ArraySource, Pixels, Source
from .value_range import find_range

_MOST_RESIDENT = 8 << 30
_SAMPLE = 256
_HELD: weakref.WeakValueDictionary[tuple[str, tuple[str, ...] | None], ImageDataset] = (
    weakref.WeakValueDictionary()
)


class _TooLarge(Exception):
    """The decoded images outgrew the memory they were given; the sample was not typical."""


def estimate(source: Source, *, short_side: int | None, max_pixels: int) -> int:
    """Estimate the bytes that all images take once decoded, from the headers of a sample.

    Args:
        source: the images.
        short_side: the short side they are reduced to, or None.
        max_pixels: the most pixels allowed in one.

    Returns:
        Bytes; exact for an array.
    """
    count = len(source)
    rows = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    sizes = []
    for row in rows[:1] if isinstance(source, ArraySource) else rows:
        with contextlib.suppress(BadImage):
            data = source.read(int(row))
            shape = data.shape if isinstance(data, np.ndarray) else stored_shape(data, max_pixels=max_pixels)
            width, height = decode.reduced(shape[1], shape[0], short_side)
            sizes.append(3 * width * height)
    return int(count * np.mean(sizes)) if sizes else 0


def _wrap(config: ReadConfig, source: ArraySource, flat: Pixels) -> ImageDataset:
    """Use an array that already lies as a data set does, without a copy."""
    ledger = Ledger(config)
    size = flat.size // len(source)

    def work(row: int) -> None:
        try:
            pixels, digest = config.read(row)
        except BadImage as error:
            ledger.reject(row, str(error))
        else:
            ledger.record(row, row * size, pixels, digest)

    each(len(source), work, threads=config.threads, what="reading")
    return ledger.dataset(flat.view(), resident=True)


def _into_memory(config: ReadConfig, expected: int, limit: int) -> ImageDataset:
    """Decode everything into one growing buffer."""
    ledger = Ledger(config)
    buffer: Pixels = np.empty(min(limit, expected + expected // 8 + (1 << 20)), dtype=np.uint8)
    used = 0

    def work(row: int) -> None:
        nonlocal used
        try:
            pixels, digest = config.read(row)
        except BadImage as error:
            return ledger.reject(row, str(error))
        with ledger.lock:
            if used + pixels.size > limit:
                raise _TooLarge
            if used + pixels.size > buffer.size:
                # In place, where the system can: no view of the buffer is handed out before the end.
                buffer.resize(min(limit, 2 * buffer.size + pixels.size), refcheck=False)
            buffer[used : used + pixels.size] = pixels.reshape(-1)
            ledger.record(row, used, pixels, digest)
            used += pixels.size

    each(len(config.source), work, threads=config.threads, what="reading")
    buffer.resize(max(1, used), refcheck=False)
    return ledger.dataset(buffer, resident=True)


def load(
    source: Source,
    *,
    short_side: int | None,
    max_pixels: int,
    max_bad: float,
    threads: int,
    decode_once: bool = True,
    folder: Path | None = None,
    seed: int = 0,
    memory: int | None = None,
    value_range: Range | None = None,
    reducing: decode.Reducing = decode.USUAL,
) -> ImageDataset | FileDataset:
    """Make a collection ready for use: every image decoded once, the bad ones left out by name.

    Memory: the decoded images if they fit into `memory`, else none of them; and for each thread one image
    of up to 16 million pixels, at most 8 bytes a pixel decoded, and its file. Larger images are decoded
    one at a time.

    Args:
        source: the images.
        short_side: images with a larger short side are reduced to it, in pixels; None keeps them whole.
        max_pixels: images of more pixels are left out.
        max_bad: the share of bad images, 0 to 1, beyond which this stops.
        threads: threads that decode.
        decode_once: whether to decode now; without it, files are read each time they are asked for.
        folder: that decoded images are kept under, where they are kept on disk; default `cache_root()`.
        seed: names the substitutes of bad images, where files are read each time.
        memory: bytes that decoded images may take in memory; default a quarter of what is free, at most
            8 GiB. A larger collection is kept on disk, under a name that says what went in.
        value_range: as in `decode.decode`; None: the collection's own.
        reducing: as in `decode.decode`.

    Returns:
        The data set.

    Raises:
        NearfarError: too many images are bad, none is good, or the disk lacks room.
    """
    value_range = value_range or find_range(source, max_pixels=max_pixels)
    config = ReadConfig(source, short_side, max_pixels, max_bad, threads, value_range, reducing)
    if not decode_once:
        labels, classes = class_numbers(source.labels)
        return FileDataset(
            ids=source.ids,
            labels=labels,
            classes=classes,
            fingerprint=config.name(),
            resident=False,
            source=source,
            short_side=short_side,
            max_pixels=max_pixels,
            max_bad=max_bad,
            seed=seed,
            threads=threads,
            value_range=value_range,
            reducing=reducing,
        )
    flat = source.flat() if isinstance(source, ArraySource) else None
    if isinstance(source, ArraySource) and flat is not None:
        height, width = source.pixels.shape[1:3]
        if decode.reduced(width, height, short_side, reducing.squash) == (width, height):
            return _wrap(config, source, flat)
    expected = estimate(source, short_side=short_side, max_pixels=max_pixels)
    limit = min(_MOST_RESIDENT, available() // 4) if memory is None else memory
    if expected <= limit:
        key = (config.name(), source.labels)
        held = _HELD.get(key)
        try:
            # Someone in this process still holds the very same images.
            made = held if held is not None else _into_memory(config, expected, limit)
            _HELD[key] = made
            return made
        except _TooLarge:
            say("the images are larger than estimated from a sample; decoding them to disk instead")
            expected = max(expected, limit)
    return open_or_make(config, folder or cache_root(), expected)
