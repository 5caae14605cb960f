"""Sources of images: files on a disk, or one array in memory, all read in the same way."""

from __future__ import annotations

import abc
import hashlib
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
import numpy.typing as npt

from ..core.errors import NearfarError
from ..core.plain_path import real_path
from ..core.progress import Bar
from ..core.text import bytes_of, counted
from ..core.threads import map_in_order
from ..images.value_range import Values, over_white
from .names import Names

Pixels = npt.NDArray[np.uint8]
_PART = 1024  # images stamped at a time
_MANY = 100_000  # files from which on a compiled loop looks them up: loading it takes half a second
_SLOW = 5e-5  # seconds a stamp takes where it has to be waited for: a disk across a network, a cold one
_WAITING = 32  # threads that then wait side by side


@dataclass(frozen=True)
class Source(abc.ABC):
    """Images that can be read one by one, in a fixed order, from any thread.

    `ids` names each image in valid UTF-8; `labels` has one class name an image, or is None where labels
    were not asked for; `name` is what the user called it; `kind` is a word for what it is; `masks` names
    files that were left out, since they are masks of images beside them; `others` counts the other files of
    its folder by their endings; `columns` are numbers that a store keeps of each image, None where there is
    none.
    """

    name: str
    ids: Sequence[str]
    labels: tuple[str, ...] | None
    masks: Sequence[str] = field(default=(), kw_only=True)
    others: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    columns: Mapping[str, Sequence[float | None]] = field(default_factory=dict, kw_only=True)
    kind: ClassVar[str] = "images"
    label_column: ClassVar[str] = "label"
    """The column of a store that keeps the labels."""
    waiting: ClassVar[int] = 1
    """Threads that wait side by side where examples come across a network."""

    def __len__(self) -> int:
        """Count the images."""
        return len(self.ids)

    @property
    def modality(self) -> str:
        """Name the kind of data, as `modality.MODALITIES` does."""
        return "images"

    @abc.abstractmethod
    def read(self, index: int) -> bytes | Path | Values:
        """Fetch one image.

        Args:
            index: from 0 to len(self) - 1.

        Returns:
            An encoded file's bytes or path, or (H, W, 3) pixels: uint8, or of a type that has
            yet to be scaled.

        Raises:
            BadImage: it cannot be fetched.
        """

    @abc.abstractmethod
    def stamp(self, index: int) -> str:
        """Say cheaply what would change if the image did, such as its file's size and time.

        Args:
            index: from 0 to len(self) - 1.
        """

    def stamp_rows(self, rows: range) -> list[str]:
        """Stamp several images, one after the other; see `stamp`.

        Args:
            rows: from 0 to len(self) - 1.
        """
        return [self.stamp(row) for row in rows]


@overload
def clean(names: Names) -> Names: ...
@overload
def clean(names: Iterable[str]) -> Sequence[str]: ...
def clean(names: Iterable[str]) -> Sequence[str]:
    """Make names valid UTF-8: a byte that was none becomes the four characters of `\\xff`.

    Args:
        names: names as the file system gave them.

    Returns:
        Packed names where they were packed, the same if nothing is to be done; else a list.
    """
    if isinstance(names, Names):
        if names.is_text():
            return names
        return Names.of(bytes_of(name).decode("utf-8", "backslashreplace") for name in names)
    kept = list(names)
    try:
        "\0".join(kept).encode()
    except UnicodeEncodeError:
        kept = [bytes_of(name).decode("utf-8", "backslashreplace") for name in kept]
    return kept


def file_of(name: str) -> str:
    """Find the file of a path that `clean` may have rewritten.

    Args:
        name: a path as `clean` gave it.

    Returns:
        The path with bytes that are no UTF-8, if such a file is there; else the path as it is.
    """
    if "\\x" not in name or os.path.lexists(name):
        return name
    odd = re.sub(r"\\x([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name)
    return odd if os.path.lexists(odd) else name


def places_of(source: Source) -> list[str]:
    """Say where the file of each example really lies; nothing where they are no files.

    Args:
        source: the examples.

    Returns:
        (n,) paths without links, or none.
    """
    if not isinstance(source, FileSource):
        return []
    return [real_path(source.root / path) for path in source.paths]


def real_places(paths: Iterable[str]) -> Iterator[str]:
    """Write absolute paths whose folders are no links, each of which may lead elsewhere one day.

    Nor is `..`, after a link, the folder that is written before it. A file that is itself a link keeps its
    name.

    Args:
        paths: of files, which need not be there.

    Yields:
        A path each.
    """
    real: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in real:
            real[folder] = real_path(folder)
        yield os.path.join(real[folder], name)


def files_of(names: Iterable[str | None]) -> list[str]:
    """Find the files of paths that a store holds; see `file_of`.

    Args:
        names: paths, or None where the store knows none.

    Returns:
        A path each, "" for None.
    """
    return [file_of(name) if name else "" for name in names]


def file_stamp(path: str | Path) -> str:
    """Say a file's size and time of change, or "missing".

    Args:
        path: the file.
    """
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    return f"{info.st_size}:{info.st_mtime_ns}"


def stamps(source: Source) -> Iterator[tuple[range, list[str]]]:
    """Stamp every image, from many threads at once as soon as the answers are slow to come.

    Threads are for slow disks alone: where the answer is in memory, they would only take turns.

    Args:
        source: the images.

    Yields:
        Rows, in order and without a gap, and their stamps.
    """

    parts = [range(low, min(low + _PART, len(source))) for low in range(0, len(source), _PART)]
    with Bar("looking up", len(source)) as bar:
        slow = False
        while parts and not slow:
            part = parts.pop(0)
            began = time.perf_counter()
            made = source.stamp_rows(part)
            slow = time.perf_counter() - began > _SLOW * len(part)
            bar.advance(len(part))
            yield part, made
        if parts:
            found = map_in_order(source.stamp_rows, parts, threads=_WAITING, ahead=2 * _WAITING)
            for part, made in zip(parts, found, strict=True):
                bar.advance(len(part))
                yield part, made


@dataclass(frozen=True)
class FileSource(Source):
    """Files; `paths` are as `find` gives them, relative to `root` or absolute; `modality` is their kind."""

    root: Path
    paths: Sequence[str]
    modality: str = field(default="images", kw_only=True)  # here it is no property
    kind: ClassVar[str] = "files"

    def read(self, index: int) -> Path:
        """Fetch one image: its path."""
        return self.root / self.paths[index]

    def stamp(self, index: int) -> str:
        """Say the file's size and time."""
        return file_stamp(os.path.join(self.root, self.paths[index]))

    def stamp_rows(self, rows: range) -> list[str]:
        """Say the sizes and times of several files."""
        if len(self.paths) >= _MANY and isinstance(self.paths, Names):
            try:
                from .file_stats import sizes_and_times  # numba, which fewer files do not need
            except ImportError:
                found = None
            else:
                found = sizes_and_times(self.root, self.paths, rows)
            if found is not None:
                numbers = zip(rows, *(values.tolist() for values in found), strict=True)
                return [f"{size}:{time}" if size >= 0 else self.stamp(row) for row, size, time in numbers]
        names, folder = self.paths[rows.start : rows.stop : rows.step], os.path.join(self.root, "")
        if os.name != "nt":  # what os.path.join does, in a fifth of its time
            return [file_stamp(name if name.startswith("/") else folder + name) for name in names]
        return [file_stamp(os.path.join(folder, name)) for name in names]


@dataclass(frozen=True)
class ArraySource(Source):
    """Images of one size in one array: (N, H, W), (N, H, W, C) or, if `first`, (N, C, H, W); C 1, 3 or 4.

    Values of another type than uint8 stay as they are until the range of the collection is known.
    """

    pixels: Values
    first: bool
    kind: ClassVar[str] = "array"

    def read(self, index: int) -> Values:
        """Fetch one image as (H, W, 3); grey is repeated, and transparency is laid over white.

        Of another type than uint8, an image with transparency stays (H, W, 4).
        """
        image = self.pixels[index]
        if image.ndim == 2:
            image = image[:, :, None]
        elif self.first:
            image = image.transpose(1, 2, 0)
        if image.shape[2] == 1:
            image = image.repeat(3, axis=2)
        elif image.shape[2] == 4:
            if image.dtype != np.uint8:  # laid over white once its range is known
                return np.ascontiguousarray(image)
            image = over_white(image)
        return np.ascontiguousarray(image)

    def stamp(self, index: int) -> str:
        """Say a digest of the pixels."""
        return hashlib.blake2b(self.read(index).tobytes(), digest_size=8).hexdigest()

    def flat(self) -> Pixels | None:
        """Give the array as (N * H * W * 3,) without a copy, where it already lies so; else None."""
        plain = self.pixels.ndim == 4 and not self.first and self.pixels.shape[3] == 3
        plain = plain and self.pixels.dtype == np.uint8
        return self.pixels.reshape(-1) if plain and self.pixels.flags.c_contiguous else None


def from_array(
    name: str, pixels: Any, labels: Sequence[Any] | None, *, ids: Sequence[str] | None = None, first: bool
) -> ArraySource:
    """Check an array of images and wrap it.

    Args:
        name: what errors call it.
        pixels: (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1, 3 or 4: uint8, or bool, integers
            or floats of any range.
        labels: one class an image, or None.
        ids: one name an image; default "0", "1", ...
        first: where both would do, take a 4-dimensional array as (N, C, H, W).

    Returns:
        The source.

    Raises:
        NearfarError: the type or shape is another, or there is nothing in it.
    """
    pixels = np.asarray(pixels)
    shape = pixels.shape
    if pixels.dtype.kind not in "buif":
        raise NearfarError(f"{name} holds {pixels.dtype}; pass real numbers, such as uint8 from 0 to 255.")
    channels = (1, 3, 4)
    last_fits, first_fits = (len(shape) == 4 and shape[at] in channels for at in (3, 1))
    lone = len(shape) == 3 and shape[2] in channels
    if lone or not (len(shape) == 3 or last_fits or first_fits):
        hint = "it looks like one image: pass images[None]" if lone else "pass (N, H, W, 3) uint8 pixels"
        raise NearfarError(f"{name} has the shape {shape}, which is not an array of images; {hint}.")
    if 0 in shape:
        raise NearfarError(f"{name} has the shape {shape}: it holds no images; pass at least one.")
    named = None if labels is None else class_names(name, labels, shape[0])
    first = first_fits and (first or not last_fits)
    return ArraySource(name, ids or [str(i) for i in range(shape[0])], named, pixels, first)


NO_LABEL = frozenset({"", "-1", "null", "nan", "#n/a", "<na>"})  # words for a missing label, in any case
_UNSEEN = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # characters without width, which also end up in tables


def label_of(value: Any) -> str | None:
    """Write a label of any kind as a class's name.

    Args:
        value: a word, in bytes too, or a number, or None.

    Returns:
        The name without blanks around it, in Unicode's composed form, so that two names that look alike are
        one; a whole number without a point. None where it means no label: empty, -1, null, NaN, #N/A or
        pandas' <NA>.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    word = "" if value is None else unicodedata.normalize("NFC", str(value)).translate(_UNSEEN).strip()
    return None if word.lower() in NO_LABEL else word


def class_names(
    name: str, labels: Sequence[Any], count: int, *, one: str = "image", ids: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Turn labels of any kind into class names, one an image.

    Args:
        name: what errors call the images.
        labels: words or numbers; a NumPy array or tensor will do.
        count: how many images there are.
        one: what errors call one of them.
        ids: its name in errors; None: its number.

    Returns:
        The names: a whole number is written without a point.

    Raises:
        NearfarError: there are more or fewer labels than images, or one is missing, as `label_of` says.
    """
    plain = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if len(plain) != count:
        raise NearfarError(
            f"{name} has {counted(count, one)} but {counted(len(plain), 'label')}; pass one label per {one}."
        )
    words = []

    def told(row: int) -> str:
        return f"{one} {row + 1:,}" if ids is None else f"{one} {ids[row]}"

    for row, label in enumerate(plain):
        if isinstance(label, (list, tuple, dict, set)):
            raise NearfarError(
                f"{name} has {str(label)[:40]} for the label of {told(row)}; give one word or number, or "
                "fine-tune with --multi-label."
            )
        word = label_of(label)
        if word is None:
            said = "" if label is None else str(label).strip()  # not compared: of pandas' NA nothing is true
            shown = f" ({said!r} means none)" if said else ""
            many = sum(label_of(other) is None for other in plain)
            some = told(row) if many == 1 else f"{many:,} of its {counted(count, one)}, such as {told(row)}"
            each = "it" if many == 1 else "each"
            raise NearfarError(f"{name} has no label for {some}{shown}; give {each} one or leave it out.")
        words.append(sys.intern(word))  # a class is one string, however many images it has
    return tuple(clean(words))
