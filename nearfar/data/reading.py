"""Reads one image after another, in threads, and names those that cannot be used."""

from __future__ import annotations

import csv
import hashlib
import io
import shlex
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.atomic import atomic_write
from ..core.errors import BadImage, NearfarError
from ..core.progress import Bar
from ..core.text import counted, spreadsheet_cell
from ..core.threads import map_in_order
from ..images import decode
from ..images.files import read
from ..images.value_range import Range, Values, to_rgb_array
from .crops import Crops, Cut
from .source import Pixels, Source

_SLICE = 32  # images a thread takes at a time
_AHEAD = 4  # slices a thread may be ahead of the slowest


@dataclass(frozen=True)
class Rejected:
    """One image left out: its id, and the reason in a few words."""

    id: str
    reason: str


def check_of(source: Source) -> str:
    """Advise to look at a collection, in a line that can be pasted."""
    if source.name in ("the list", "the array"):  # of a program
        return f"pass {source.name} to nearfar.check"
    return f"run: nearfar check {shlex.quote(source.name)}"


def none_usable(source: Source, reason: str, tried: int | None = None) -> NearfarError:
    """Say that no example of a collection can be used.

    Args:
        source: the collection.
        reason: why one of them cannot.
        tried: how many were tried; None for all.

    Returns:
        The error to raise.
    """
    from .folders import is_image_name
    from .modalities import modality

    some = counted(len(source), modality(source.modality).one)
    if tried is not None and tried < len(source):
        some = f"{tried:,} {modality(source.modality).noun} tried"
    what = check_of(source)
    if source.name == "the list" and all(" " in name and not is_image_name(name) for name in source.ids[:50]):
        what = "if these are texts, pass modality='text'"
    return NearfarError(f"of {some} of {source.name} none can be used ({reason}); {what}")


def fetch(source: Source, index: int, *, max_pixels: int) -> tuple[Values | bytes | Cut, bytes]:
    """Fetch one image of a source, whatever form it comes in, without decoding it.

    Args:
        source: the images.
        index: which one.
        max_pixels: the most pixels allowed.

    Returns:
        A file's bytes, what the array holds, or an object yet to be cut out; and a digest of its content:
        16 bytes, which of an object are its image's, and then more.

    Raises:
        BadImage: it cannot be used.
    """
    if isinstance(source, Crops):
        return source.fetch(index)
    data = source.read(index)
    if isinstance(data, np.ndarray):
        height, width = data.shape[:2]
        if height * width > max_pixels:
            raise BadImage(f"over the limit of {max_pixels:,} pixels: {width} x {height}")
        shape = np.array(data.shape, dtype=np.int64).tobytes()
        return data, hashlib.blake2b(shape + data.tobytes(), digest_size=16).digest()
    if isinstance(data, Path):
        data = read(data, max_pixels=max_pixels)
    return data, hashlib.blake2b(data, digest_size=16).digest()


def read_pixels(
    source: Source,
    index: int,
    *,
    short_side: int | None,
    max_pixels: int,
    value_range: Range | None = None,
    reducing: decode.Reducing = decode.USUAL,
) -> tuple[Pixels, bytes]:
    """Read one image of a source, whatever form it comes in.

    Args:
        source: the images.
        index: which one.
        short_side: reduce to this short side, in pixels.
        max_pixels: the most pixels allowed.
        value_range, reducing: as in `decode.decode`.

    Returns:
        (H, W, 3) uint8, and a digest of 16 bytes of the file's content.

    Raises:
        BadImage: it cannot be used.
    """
    data, digest = fetch(source, index, max_pixels=max_pixels)
    if isinstance(data, Cut):
        own = hashlib.blake2b(digest, digest_size=16).digest()
        return decode.shrink(data.pixels(value_range), short_side, reducing), own
    if isinstance(data, np.ndarray):
        return decode.shrink(to_rgb_array(data, value_range), short_side, reducing), digest
    pixels = decode.decode(
        data,
        max_pixels=max_pixels,
        short_side=short_side,
        value_range=value_range,
        reducing=reducing,
    )
    return pixels, digest


class TooManyBad(NearfarError):
    """More examples cannot be used than are allowed; `found` says so without what a flag could change."""

    def __init__(self, found: str, max_bad: float, advice: str) -> None:
        super().__init__(f"{found}, more than --max-bad {max_bad:g} allows {advice}; or raise --max-bad.")
        self.found = f"{found}, more than {max_bad:.0%}, {advice}."


def too_many(source: Source, rejected: Sequence[Rejected], count: int, max_bad: float) -> None:
    """Stop where more images are bad than allowed.

    Args:
        source: the collection.
        rejected: those found bad so far.
        count: images in all.
        max_bad: the share of them allowed, 0 to 1.

    Raises:
        TooManyBad: it is more; the text gives the number and the first reasons.
    """
    if len(rejected) > max_bad * count:
        from .modalities import modality_of

        noun = modality_of(source).noun
        first = "; ".join(f"{item.id}: {item.reason}" for item in rejected[:3])
        raise TooManyBad(
            f"at least {len(rejected):,} of {count:,} {noun} cannot be used",
            max_bad,
            f"({first}); {check_of(source)}, then fix or remove them",
        )


def each(
    count: int,
    work: Callable[[int], None],
    *,
    threads: int,
    what: str,
    noun: str = "images",
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Do a piece of work for every number from 0 to count - 1, in threads, and show how far it is.

    Args:
        count: pieces of work.
        work: does one; called from several threads, roughly in order.
        threads: how many threads.
        what: the work, as a present participle.
        noun: what the numbers count.
        tick: called from the calling thread after every few pieces.

    Raises:
        Exception: the first that `work` or `tick` raised; no further piece is begun after it.
    """
    stop = threading.Event()

    def run(part: range) -> int:
        for index in part:
            if stop.is_set():
                break
            try:
                work(index)
            except BaseException:
                stop.set()
                raise
        return len(part)

    parts = (range(low, min(low + _SLICE, count)) for low in range(0, count, _SLICE))
    done = map_in_order(run, parts, threads=threads, ahead=_AHEAD * threads)
    with Bar(what, count, noun) as bar, closing(done):
        try:
            for number in done:
                bar.advance(number)
                tick()
        finally:
            stop.set()


def write_rejected_beside(output: Path, rejected: Sequence[Rejected]) -> None:
    """Write what an output lacks into `<output>.rejected.csv`; a list that an earlier call left is removed.

    Args:
        output: the file that was written.
        rejected: the images left out of it.
    """
    path = output.with_name(f"{output.name}.rejected.csv")
    if rejected:
        write_rejected(path, rejected)
    else:
        path.unlink(missing_ok=True)


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """Write `rejected.csv` with the columns id and reason, whole or not at all.

    Args:
        path: the file.
        rejected: the images left out.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "reason"])
    writer.writerows((spreadsheet_cell(item.id), item.reason) for item in rejected)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
