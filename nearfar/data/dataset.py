"""Holds images ready for use: decoded in one long buffer, or read from their files batch by batch."""

from __future__ import annotations

import abc
import functools
import hashlib
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.errors import BadImage, NearfarError
from ..core.threads import map_in_order
from ..images.decode import USUAL, Reducing, decode
from ..images.value_range import Range
from .names import taken
from .reading import Rejected, check_of, read_pixels, too_many
from .source import Pixels, Source

_SOME = 1 << 16  # names at a time
LEAST_HELD, MOST_HELD = 64, 2048  # images held out, if any
_TRIES = 100  # substitutes tried for a bad image; if all fail, the collection is beyond --max-bad anyway


@dataclass(frozen=True)
class RaggedImages:
    """Some images: image k is `pixels[offset[k]:][: height[k] * width[k] * 3]`, rows of RGB bytes.

    `pixels` is 1-dimensional uint8 and read-only; `offset` (n,) int64; `height`, `width` (n,) int32.
    """

    pixels: Pixels
    offset: npt.NDArray[np.int64]
    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.offset)

    def take(self, rows: npt.NDArray[np.int64]) -> RaggedImages:
        """Keep some of the images, by number; their pixels are not copied."""
        return RaggedImages(self.pixels, self.offset[rows], self.height[rows], self.width[rows])

    def image(self, index: int) -> Pixels:
        """View one image as (H, W, 3)."""
        start, height, width = int(self.offset[index]), int(self.height[index]), int(self.width[index])
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)


@dataclass(frozen=True, eq=False)
class Dataset(abc.ABC):
    """What all data sets share: `ids` in order, `labels` (n,) int64 that point into `classes`, or None.

    `fingerprint` is hex and changes with any id or image; `resident` tells whether the pixels are in memory.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    fingerprint: str
    resident: bool

    def __len__(self) -> int:
        """Count the images."""
        return len(self.ids)

    @property
    def modality(self) -> str:
        """Name the kind of data, as `modality.MODALITIES` does."""
        return "images"

    def __getitem__(self, row: int) -> Pixels:
        """Give one image as (H, W, 3) uint8."""
        return self.gather(np.array([range(len(self))[row]])).image(0)

    @abc.abstractmethod
    def gather(self, rows: npt.NDArray[np.int64]) -> RaggedImages:
        """Give some images.

        Args:
            rows: (n,) row numbers, in any order.

        Returns:
            n images, in that order.
        """


def one_colour(images: Any) -> bool:
    """Tell whether all pixels of some images are equal, as where their values were lost on the way.

    Args:
        images: RaggedImages; others, such as texts, never are.
    """
    if not isinstance(images, RaggedImages):
        return False
    first = images.image(0)[:1, :1]
    return all(bool((images.image(row) == first).all()) for row in range(len(images)))


@dataclass(frozen=True, eq=False)
class ImageDataset(Dataset):
    """Decoded images in one buffer, in memory or mapped from a cache on disk; gathering copies nothing.

    `heights`, `widths` (n,) int32 are the images' sides; `digests` (n, 16) uint8 those of the files' bytes;
    `rejected` are the images left out, in the source's order; `nbytes` counts the bytes of pixels.
    """

    rejected: tuple[Rejected, ...]
    pixels: Pixels
    offsets: npt.NDArray[np.int64]
    heights: npt.NDArray[np.int32]
    widths: npt.NDArray[np.int32]
    digests: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Count the bytes of pixels."""
        return int((self.heights.astype(np.int64) * self.widths).sum()) * 3

    def gather(self, rows: npt.NDArray[np.int64]) -> RaggedImages:
        """Give some images, as views of the one buffer."""
        return RaggedImages(self.pixels, self.offsets[rows], self.heights[rows], self.widths[rows])


@dataclass(frozen=True, eq=False)
class FileDataset(Dataset):
    """Images that are read and decoded each time they are asked for.

    A bad one is found only when it is read. Another row of its class takes its place, chosen by the bad row's
    number alone, so that neither history nor threads matter; `rejected` grows by it.
    """

    source: Source
    short_side: int | None
    max_pixels: int
    max_bad: float
    seed: int
    threads: int
    value_range: Range | None = None
    reducing: Reducing = USUAL
    _bad: dict[int, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The images found bad so far, in the source's order."""
        with self._lock:
            return tuple(Rejected(self.ids[row], reason) for row, reason in sorted(self._bad.items()))

    @property
    def nbytes(self) -> int:
        """Count the bytes of pixels held: none."""
        return 0

    def _decode(self, row: int, among: npt.NDArray[np.int64] | None) -> Pixels:
        """Decode a row, or the first of its substitutes that is good."""
        for attempt in range(_TRIES):
            at = self._substitute(row, attempt, among) if attempt else row
            try:
                data = self.source.read(at)
                if isinstance(data, np.ndarray):
                    own, limit = self.value_range, self.max_pixels
                    return read_pixels(self.source, at, short_side=None, max_pixels=limit, value_range=own)[0]
                # Up to twice the side will do: the crop's own resize is cheaper than one more here.
                return decode(
                    data,
                    max_pixels=self.max_pixels,
                    short_side=self.short_side,
                    exact=False,
                    value_range=self.value_range,
                    reducing=self.reducing,
                )
            except BadImage as error:
                with self._lock:
                    self._bad[at] = str(error)
            too_many(self.source, self.rejected, len(self), self.max_bad)
        raise NearfarError(f"no usable image was found in {self.source.name}; {check_of(self.source)}")

    def _substitute(self, row: int, attempt: int, among: npt.NDArray[np.int64] | None) -> int:
        """Draw a row of the same class, or of any where that may be all bad."""
        some = np.arange(len(self)) if among is None else among
        if attempt < _TRIES // 2 and self.labels is not None:
            some = some[self.labels[some] == self.labels[row]]
        u = rng.uniform(rng.fold(self.seed, "substitute"), [row], attempt)
        return int(some[int(float(u[0, -1]) * len(some))])

    def gather(self, rows: npt.NDArray[np.int64], among: npt.NDArray[np.int64] | None = None) -> RaggedImages:
        """Read some images; a substitute stands in for a bad one, with its own sides.

        Args:
            rows: (n,) row numbers, in any order.
            among: the rows of which substitutes are taken, such as those trained on; None for all.
        """

        def one(row: int) -> Pixels:
            return self._decode(row, among)

        shapes = np.zeros((len(rows), 2), dtype=np.int32)
        block, used = np.empty(0, dtype=np.uint8), 0
        # Few at a time, so that their memory is used again: fresh memory costs more than a copy.
        decoded = map_in_order(one, rows.tolist(), threads=self.threads, ahead=2 * self.threads)
        for at, part in enumerate(decoded):
            if used + part.size > block.size:
                block.resize(used + part.size * (len(rows) - at), refcheck=False)  # the rest as large as this
            block[used : used + part.size] = part.reshape(-1)
            shapes[at], used = part.shape[:2], used + part.size
        block.resize(used, refcheck=False)
        block.flags.writeable = False
        sizes = 3 * shapes.prod(axis=1, dtype=np.int64)
        return RaggedImages(block, np.cumsum(sizes) - sizes, *shapes.T.copy())


class Subset(Dataset):
    """Some images of a data set, as a data set of their own; its class numbers stay those of the whole."""

    def __init__(self, dataset: Dataset, rows: npt.NDArray[np.int64]) -> None:
        """Choose the images.

        Args:
            dataset: the whole; of a subset, that subset's own whole is kept.
            rows: (n,) rows of it, in any order.
        """
        self.dataset: Dataset = dataset.dataset if isinstance(dataset, Subset) else dataset
        self.rows: npt.NDArray[np.int64] = dataset.rows[rows] if isinstance(dataset, Subset) else rows

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    @property
    def modality(self) -> str:
        """Name the kind of data, which is that of the whole."""
        return self.dataset.modality

    @functools.cached_property
    def ids(self) -> Sequence[str]:
        """Name the images, in order."""
        return taken(self.dataset.ids, self.rows)

    @functools.cached_property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """(n,) class numbers, or None."""
        return None if self.dataset.labels is None else self.dataset.labels[self.rows]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the whole, so that a number means the same class in both."""
        return self.dataset.classes

    @property
    def resident(self) -> bool:
        """Whether the pixels are in memory."""
        return self.dataset.resident

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex that changes with any id or image: of decoded images, as if they were a whole of their own."""
        if hasattr(self.dataset, "digests"):
            return fingerprint(self.ids, self.digests)
        mark = f"{self.dataset.fingerprint} {self.rows.tolist()}"
        return hashlib.blake2b(mark.encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def digests(self) -> npt.NDArray[np.uint8]:
        """(n, 16) digests of the files' bytes."""
        known: npt.NDArray[np.uint8] = self._decoded().digests
        return known[self.rows]

    @functools.cached_property
    def heights(self) -> npt.NDArray[np.int32]:
        """(n,) heights in pixels."""
        known: npt.NDArray[np.int32] = self._decoded().heights
        return known[self.rows]

    @functools.cached_property
    def widths(self) -> npt.NDArray[np.int32]:
        """(n,) widths in pixels."""
        known: npt.NDArray[np.int32] = self._decoded().widths
        return known[self.rows]

    def gather(self, rows: npt.NDArray[np.int64]) -> RaggedImages:
        """Give the images of these rows of the subset."""
        if isinstance(self.dataset, FileDataset):
            return self.dataset.gather(self.rows[rows], self.rows)
        return self.dataset.gather(self.rows[rows])

    def _decoded(self) -> Any:
        """Give the whole, if it has been decoded."""
        if not hasattr(self.dataset, "digests"):
            raise NearfarError(
                "the sizes and digests of images that are not cached are not known; leave out --no-cache."
            )
        return self.dataset


def fingerprint(ids: Sequence[str], digests: npt.NDArray[np.uint8]) -> str:
    """Name a collection by its content.

    Args:
        ids: n names.
        digests: (n, 16) uint8, of each image's content.

    Returns:
        32 hexadecimal digits, which change with any id, image or their order.
    """
    mark = hashlib.blake2b(digest_size=16)
    for at in range(0, len(ids), _SOME):  # as if they were one text, each name behind a \0 but the first
        mark.update((("\0" if at else "") + "\0".join(ids[at : at + _SOME])).encode())
    mark.update(b"\0\0")
    mark.update(np.ascontiguousarray(digests).tobytes())
    return mark.hexdigest()


def holdout_rows(count: int, share: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose which images are held out, that are never trained on.

    Args:
        count: images there are.
        share: of them, 0 to 0.5; no more than 2,048 are taken, and none where these were fewer than 64.
        seed: names the draw.

    Returns:
        The rows to train on and those held out, each ascending.
    """
    held = min(MOST_HELD, int(share * count))
    if held < LEAST_HELD:
        return np.arange(count), np.arange(0)
    order = rng.permutation(rng.fold(seed, "held apart"), count)
    return np.sort(order[held:]), np.sort(order[:held])


def holdout_split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Subset | None]:
    """Hold some images out, that are never trained on.

    Args:
        dataset: the images.
        share: as in `holdout_rows`.
        seed: names the draw.

    Returns:
        The images to train on; those held out, or None.
    """
    trained, held = holdout_rows(len(dataset), share, seed)
    if not len(held):
        return dataset, None
    return Subset(dataset, trained), Subset(dataset, held)


def class_numbers(labels: Sequence[str] | None) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """Number the classes: in alphabetical order, or by value where all are whole numbers.

    Args:
        labels: one class name an image, or None.

    Returns:
        (n,) int64 numbers or None, and the class names they point to.
    """
    if labels is None:
        return None, ()
    names = sorted(set(labels))
    if all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=int)
    number = {name: at for at, name in enumerate(names)}
    return np.array([number[label] for label in labels], dtype=np.int64), tuple(names)


def equal_rows(digests: npt.NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """Group rows with equal digests.

    Args:
        digests: (n, 16) uint8.

    Returns:
        One tuple of rows, ascending, for each content that occurs more than once.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        groups[digest.tobytes()].append(row)
    return [tuple(rows) for rows in groups.values() if len(rows) > 1]


def duplicates(dataset: ImageDataset) -> list[tuple[int, ...]]:
    """Group the images of a data set whose files are equal, byte for byte.

    Args:
        dataset: the images.

    Returns:
        One tuple of rows, ascending, for each content that occurs more than once.
    """
    return equal_rows(dataset.digests)
