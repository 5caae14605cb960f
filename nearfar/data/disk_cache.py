"""Keeps decoded images on disk, made once, safe against a kill at any moment, and maps them back.

A cache is a folder with `pixels.bin` (every image's RGB bytes) and `index.npz` (where each lies), named
after what went in. While it is being made, `journal.bin` records what is safely written, so that
decoding can be killed and resumed; the index comes last, and a cache without one is not used.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..core.arrays import ERRORS, open_arrays
from ..core.atomic import atomic_write
from ..core.errors import BadImage, NearfarError
from ..core.locks import hold
from ..core.progress import say
from ..core.text import counted
from .dataset import ImageDataset
from .ledger import RECORD, Ledger, ReadConfig
from .reading import each
from .source import Pixels

_FLUSH_SECONDS = 2.0


def ends(records: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Say where each image of some records ends in `pixels.bin`.

    Args:
        records: (n,) of `ledger.RECORD`.

    Returns:
        (n,) int64, in bytes.
    """
    sizes: npt.NDArray[np.int64] = 3 * records["height"].astype(np.int64) * records["width"]
    return sizes + records["offset"]


def _finished(config: ReadConfig, folder: Path) -> ImageDataset | None:
    """Open a cache that is complete, or give None."""
    try:
        with open_arrays(folder / "index.npz") as file:
            records, rejected = file["records"], json.loads(file["rejected"].tobytes())
        pixels = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")
    except ERRORS:
        return None
    if (
        not isinstance(rejected, dict)
        or records.dtype != RECORD
        or not len(records)
        or ends(records).max() > pixels.size
    ):
        return None
    ledger = Ledger(config)
    ledger.records[records["row"]] = records
    ledger.reasons = {int(row): reason for row, reason in rejected.items()}
    ledger.check()
    return ledger.dataset(pixels, resident=False)


class _Journal:
    """Keeps on disk which images are already packed: pixels first, then the record that says so."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        held = (folder / "journal.bin").read_bytes() if (folder / "journal.bin").exists() else b""
        whole = len(held) // RECORD.itemsize * RECORD.itemsize  # a kill may have torn the last record
        records = np.frombuffer(held[:whole], dtype=RECORD)
        ledger.records[records["row"]] = records
        self.end = int(ends(records).max(initial=0))
        self.pixels = os.open(folder / "pixels.bin", os.O_RDWR | os.O_CREAT, 0o644)
        self.file: IO[bytes] = open(folder / "journal.bin", "r+b" if held else "w+b")
        self.file.truncate(whole)
        self.file.seek(whole)
        self.ledger, self.fresh, self.last = ledger, list[int](), time.monotonic()

    def add(self, row: int, pixels: Pixels, digest: bytes) -> None:
        """Write an image at the end; threads write side by side."""
        with self.ledger.lock:
            offset = self.end
            self.end += pixels.size
        left, at = pixels.tobytes(), offset
        while left:
            written = os.pwrite(self.pixels, left, at)
            left, at = left[written:], at + written
        with self.ledger.lock:
            self.ledger.record(row, offset, pixels, digest)
            self.fresh.append(row)

    def flush(self, *, now: bool = False) -> None:
        """Every few seconds, make what is written safe and record it."""
        if not now and time.monotonic() - self.last < _FLUSH_SECONDS:
            return
        with self.ledger.lock:
            rows, self.fresh = self.fresh, []
        os.fsync(self.pixels)
        self.file.write(self.ledger.records[rows].tobytes())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.last = time.monotonic()

    def close(self) -> None:
        """Close both files."""
        os.close(self.pixels)
        self.file.close()


def _write_index(folder: Path, ledger: Ledger) -> None:
    """Write the index, whole or not at all; with it the cache is complete."""
    reasons = json.dumps({str(row): reason for row, reason in ledger.reasons.items()}).encode()
    good = ledger.records[ledger.records["row"] >= 0]
    with atomic_write(folder / "index.npz") as file:
        np.savez(file, records=good, rejected=np.frombuffer(reasons, dtype=np.uint8))
    (folder / "journal.bin").unlink(missing_ok=True)


def _make(config: ReadConfig, folder: Path, expected: int) -> ImageDataset:
    """Decode what is not in the cache yet."""
    ledger = Ledger(config)
    journal = _Journal(folder, ledger)
    left = np.flatnonzero(ledger.records["row"] < 0)
    try:
        needed, free = expected - journal.end, shutil.disk_usage(folder).free
        if needed > free:
            raise NearfarError(
                f"the cache of {config.source.name} needs {needed / 1e9:,.1f} GB more in {folder}, where "
                f"{free / 1e9:,.1f} GB are free; set NEARFAR_CACHE to another disk, or pretrain with "
                "--no-cache."
            )
        again = f"; {len(ledger.records) - len(left):,} are done already" if journal.end else ""
        say(
            f"decoding {counted(len(ledger.records), 'image')}, about {expected / 1e9:,.2f} GB, into "
            f"{folder}{again}"
        )

        def work(at: int) -> None:
            row = int(left[at])
            try:
                pixels, digest = config.read(row)
            except BadImage as error:
                ledger.reject(row, str(error))
            else:
                journal.add(row, pixels, digest)

        try:
            each(len(left), work, threads=config.threads, what="decoding", tick=journal.flush)
        finally:
            journal.flush(now=True)
        os.ftruncate(journal.pixels, max(1, journal.end))
        os.fsync(journal.pixels)
        _write_index(folder, ledger)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NearfarError(
            f"the disk of {folder} is full; free some space and run the same command again to resume."
        ) from None
    finally:
        journal.close()
    dataset = _finished(config, folder)
    if dataset is None:  # the disk did not keep what was written
        raise NearfarError(f"the cache in {folder} cannot be read back; remove that folder and run again.")
    return dataset


def open_or_make(config: ReadConfig, root: Path, expected: int) -> ImageDataset:
    """Open the cache of a collection, making it or finishing it first.

    Args:
        config: the images and how they are read.
        root: the folder that caches are kept under.
        expected: bytes of pixels to expect.

    Returns:
        The data set, mapped from disk.

    Raises:
        NearfarError: the disk lacks room or cannot be written, or too many images are bad.
    """
    folder = root / "decoded" / config.name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        waiting = "another process is decoding the same images; waiting for it"
        with hold(folder / "lock", wait=True, waiting=waiting):
            return _finished(config, folder) or _make(config, folder, expected)
    except PermissionError:
        raise NearfarError(
            f"{folder} cannot be written; set NEARFAR_CACHE to a folder that you may write."
        ) from None
