"""Reads images straight out of WebDataset's tar shards; nothing is unpacked, names are only names."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage, NearfarError
from ..core.shapes import loads
from .folders import is_image_name
from .masks import masks_among
from .source import Source, clean, file_stamp, label_of

Mark = TypeVar("Mark")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_MEMBER_BYTES = 1 << 30
_LABEL_BYTES = 1 << 20
_MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shards(Source):
    """Images that are members of tar files: `shard`, `offset` and `size` (n,) say where each one lies."""

    files: tuple[Path, ...]
    stamps: tuple[str, ...]
    shard: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    kind: ClassVar[str] = "shards"

    def read(self, index: int) -> bytes:
        """Fetch one image's bytes from its shard."""
        size = int(self.size[index])
        if size > _MEMBER_BYTES:
            raise BadImage(f"over the limit: a file of {size:,} bytes")
        try:
            with open(self.files[self.shard[index]], "rb", buffering=0) as file:
                file.seek(int(self.offset[index]))
                return file.read(size)
        except OSError as error:
            raise BadImage(f"unreadable: {(error.strerror or str(error)).lower()}") from None

    def stamp(self, index: int) -> str:
        """Say the shard's size and time, and the image's place in it."""
        return f"{self.stamps[self.shard[index]]}:{self.offset[index]}:{self.size[index]}"


def expand(pattern: str) -> list[str]:
    """Write out `x-{000..003}.tar`, a range of equally wide numbers, wherever it stands.

    Args:
        pattern: a path with any number of such ranges.

    Returns:
        The paths, in order.
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not found:
        return [pattern]
    low, high, width = int(found[1]), int(found[2]), len(found[1])
    if not 0 <= high - low < _MOST_SHARDS:
        raise NearfarError(f"{pattern!r} counts from {low} to {high}; write the smaller number first.")
    rest = expand(pattern[found.end() :])
    return [f"{pattern[: found.start()]}{n:0{width}d}{tail}" for n in range(low, high + 1) for tail in rest]


def _label_of(name: str, data: bytes) -> str | None:
    """Read a class from a `.cls` member, or from a `.json` one with "label", "cls" or "class"."""
    if name.lower().endswith(".cls"):
        return label_of(data.decode("utf-8", "replace"))
    try:
        entry = loads(data)
    except ValueError:
        return None
    for word in ("label", "cls", "class"):
        if isinstance(entry, dict) and isinstance(entry.get(word), (str, int)):
            return label_of(entry[word])
    return None


Members = tuple[list[tuple[str, int, int]], dict[str, str]]


def members(file: IO[bytes], labels: bool) -> Members:
    """List a shard's images and labels.

    Args:
        file: the shard, open to read.
        labels: whether labels are wanted.

    Returns:
        Images as (name, offset, size), and labels by sample key.
    """
    # Of a name that comes again the last counts, as where it is unpacked.
    images: dict[str, tuple[int, int]] = {}
    marks: dict[str, str] = {}
    files: dict[str, tuple[int, int]] = {}  # of regular members, which hard links lead to
    if file.read(6).startswith(_PACKED):
        raise ValueError("it is compressed: unpack it, so that any image can be read by itself")
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            base = member.name.rpartition("/")[2]
            if member.islnk() and member.linkname in files:
                files[member.name] = files[member.linkname]
            elif not member.isfile() or member.issparse():
                continue
            else:
                files[member.name] = member.offset_data, member.size
            if is_image_name(base):
                images[member.name] = files[member.name]
            elif labels and base.lower().endswith((".cls", ".json")) and member.size <= _LABEL_BYTES:
                content = tar.extractfile(member)
                label = _label_of(base, content.read()) if content else None
                if label:
                    marks[key_of(member.name)] = label
    return [(name, *place) for name, place in images.items()], marks


def key_of(name: str) -> str:
    """Name a member without its extension, which begins at the last point: names may hold points."""
    return name.rpartition(".")[0]


def marks_of(images: Sequence[str], marks: Mapping[str, Mark]) -> list[Mark | None]:
    """Find each image's label or captions: a.b.png has a.b.cls's, else a.cls's where no image is a.png."""
    keys = {key_of(name) for name in images}
    found = []
    for name in images:
        key = key_of(name)
        while key not in marks and "." in key.rpartition("/")[2] and key_of(key) not in keys:
            key = key_of(key)
        found.append(marks.get(key))
    return found


def open_shards(pattern: str, *, labels: bool) -> Shards:
    """Open tar shards: their headers are read, their images not yet.

    Args:
        pattern: a .tar file, a pattern such as `shards/*.tar`, or a range such as `x-{000..003}.tar`.
        labels: whether to read each image's class from the .cls or .json member next to it.

    Returns:
        The source, in the order of the shards and of the members in them; an id is shard/member.

    Raises:
        NearfarError: no shard is there, one is broken or compressed, or labels are missing.
    """
    names: list[str] = []
    for name in expand(pattern):
        names += [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    if not names:
        raise NearfarError(f"no file matches {pattern!r}; give .tar files, such as 'shards/*.tar'.")
    odd = [name for name in names if not name.lower().endswith(".tar") or not os.path.isfile(name)]
    if odd:
        raise NearfarError(f"{odd[0]!r} is not a .tar shard; give only uncompressed .tar files.")
    files = tuple(Path(name) for name in names)
    base = os.path.commonpath([path.parent for path in files])
    heads: list[Members] = []
    for path in files:
        try:
            with open(path, "rb") as file:
                heads.append(members(file, labels))
        except (tarfile.TarError, OSError, ValueError) as error:
            raise NearfarError(
                f"the shard {path} cannot be read ({error}); download it again or leave it out."
            ) from None
    shown = [Path(os.path.relpath(path, base)).as_posix() for path in files]
    ids, where, named, masks = arranged(pattern, shown, heads, labels)
    stamps = tuple(file_stamp(path) for path in files)
    place = (where[:, 0], where[:, 1], where[:, 2])
    return Shards(pattern, ids, named, files, stamps, *place, masks=masks)


def arranged(
    pattern: str, names: Sequence[str], heads: Sequence[Members], labels: bool
) -> tuple[list[str], npt.NDArray[np.int64], tuple[str, ...] | None, list[str]]:
    """Put what several shards hold in one list, in their order.

    Args:
        pattern: what errors call them.
        names: of the shards.
        heads: of each, from `members`.
        labels: whether labels are wanted.

    Returns:
        n ids, shard/member; (n, 3) shard, offset and size; n class names, or None; the masks left out.

    Raises:
        NearfarError: there is no image, or a label is missing.
    """
    ids: list[str] = []
    places: list[tuple[int, int, int]] = []
    classes: list[str] = []
    masks: list[str] = []
    for number, (shown, (images, marks)) in enumerate(zip(names, heads, strict=True)):
        beside = masks_among([name for name, _, _ in images])
        masks += [f"{shown}/{name}" for name in sorted(beside)]
        images = [item for item in images if item[0] not in beside]
        named_by = marks_of([name for name, _, _ in images], marks)
        for (name, offset, size), mark in zip(images, named_by, strict=True):
            if labels and mark is None:
                raise NearfarError(f"{shown} has no label for {name!r}: add a .cls member for each image.")
            ids.append(f"{shown}/{name}")
            places.append((number, offset, size))
            classes += [mark] if mark is not None else []
    if not ids:
        raise NearfarError(f"there is no image in {pattern!r}; shards hold members such as 000001.jpg.")
    where = np.array(places, dtype=np.int64)
    return list(clean(ids)), where, tuple(clean(classes)) if labels else None, list(clean(masks))
