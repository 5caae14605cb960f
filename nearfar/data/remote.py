"""Opens images at s3://, gs://, hf:// and https:// addresses: folders, lists, tar shards, Parquet, Lance.

Nothing is fetched but names, lists and the headers of shards. Images are read one by one from then on, in any
order, so training draws from remote data as from local files, and resumes as exactly.
"""

from __future__ import annotations

import fnmatch
import json
import posixpath
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage, NearfarError
from ..core.progress import Bar, say
from ..core.threads import map_in_order
from . import lists
from .folders import NO_ENDING, is_image_name, told
from .image_columns import holds_images
from .labels import of_folders
from .lance import open_lance
from .masks import masks_among
from .object_cache import object_cache
from .object_store import Bucket, ObjectInfo, is_address
from .parquet import ParquetFile, ParquetImages, RemoteParquetImages, joined
from .shards import arranged, expand, members
from .source import Source, class_names, clean

MEMBER_BYTES = 1 << 30
WAITING = 32  # requests that are in flight at a time


@dataclass(frozen=True)
class RemoteFiles(Source):
    """Objects that are images: `keys` in their buckets; `marks` change with their content, "" if unknown."""

    buckets: Sequence[Bucket]
    keys: Sequence[str]
    marks: Sequence[str]
    kind: ClassVar[str] = "remote files"
    waiting: ClassVar[int] = WAITING

    def read(self, index: int) -> bytes:
        """Fetch one image's bytes."""
        return _whole(self.buckets[index].read(self.keys[index], self.marks[index]))

    def stamp(self, index: int) -> str:
        """Say the object's mark; if the list did not tell it, the server is asked."""
        if self.marks[index]:
            return self.marks[index]
        try:
            found = self.buckets[index].head(self.keys[index])
        except BadImage:
            return "missing"
        return f"{found.size}:{found.mark}"


@dataclass(frozen=True)
class RemoteShards(Source):
    """Members of remote tar files: `shard`, `offset` and `size` (n,) say where each one lies."""

    buckets: Sequence[Bucket]
    files: Sequence[ObjectInfo]
    shard: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    kind: ClassVar[str] = "remote shards"
    waiting: ClassVar[int] = WAITING

    def read(self, index: int) -> bytes:
        """Fetch one image's bytes."""
        at, size = self.shard[index], int(self.size[index])
        if size > MEMBER_BYTES:
            raise BadImage(f"over the limit: a file of {size:,} bytes")
        file = self.files[at]
        return _whole(self.buckets[at].read(file.key, file.mark, int(self.offset[index]), size))

    def stamp(self, index: int) -> str:
        """Say the shard's mark, and the image's place in it."""
        return f"{self.files[self.shard[index]].mark}:{self.offset[index]}:{self.size[index]}"


def _whole(data: bytes) -> bytes:
    if not data:
        raise BadImage("empty file")
    return data


def open_remote(address: str, *, labels: bool) -> Source:
    """Open images at an address.

    Args:
        address: a folder, a list (.txt, .csv, .tsv or .parquet), a Lance data set, or tar shards or Parquet
            files with images, with `*` or `{000..099}`.
        labels: whether labels are wanted.

    Returns:
        The source.

    Raises:
        NearfarError: there is nothing there, it cannot be read, or labels are missing.
    """
    bucket, key = Bucket.split(address)
    suffix = Path(key).suffix.lower()
    if suffix == ".lance" and bucket.scheme in ("s3", "gs"):
        return open_lance(address, labels=labels, remote=True)
    if suffix == ".parquet" and (any(char in key for char in "*?[{") or _has_images(bucket, key)):
        return _open_parquet(bucket, key, labels)
    if suffix in lists.SUFFIXES:
        return _open_list(bucket, key, labels)
    if suffix == ".tar" or any(char in key for char in "*?[{"):
        return _open_shards(bucket, key, labels)
    return _open_folder(bucket, key.rstrip("/"), labels)


def _open_folder(bucket: Bucket, folder: str, labels: bool) -> RemoteFiles:
    """Open the images under a folder, at any depth."""
    name = f"{bucket}/{folder}".rstrip("/")
    others: Counter[str] = Counter()
    found: dict[str, ObjectInfo] = {}
    say(f"listing {name}")
    for item in bucket.list(folder):
        path = item.key.removeprefix(folder).lstrip("/")
        base = path.rpartition("/")[2]
        if any(part.startswith(".") or part == "__MACOSX" for part in path.split("/")) or not base:
            continue
        if is_image_name(base):
            found[path] = item
        else:
            others[Path(base).suffix.lower()[:12] or NO_ENDING] += 1
    if not found:
        held = f" ({'; '.join(told(others))})" if others else ""
        hint = f"for its tar shards type '{name}/*.tar'" if others[".tar"] else "check the address"
        raise NearfarError(f"there is no image in {name}{held}; {hint}.")
    masks = masks_among(sorted(found))
    paths = [path for path in sorted(found) if path not in masks]
    ids = clean(paths)
    named = of_folders(name, ids) if labels else None
    items = [found[path] for path in paths]
    marks = [f"{item.size}:{item.mark}" for item in items]
    keys = [item.key for item in items]
    left_out, buckets = clean(sorted(masks)), [bucket] * len(keys)
    return RemoteFiles(name, ids, named, buckets, keys, marks, masks=left_out, others=dict(others))


def _open_list(bucket: Bucket, key: str, labels: bool) -> RemoteFiles:
    """Open the images of a list: paths relative to its folder, or addresses."""
    name = f"{bucket}/{key}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / key.rpartition("/")[2]
        try:
            path.write_bytes(bucket.read(key))
        except BadImage as error:
            raise bucket.refused(key, str(error)) from None
        paths, marks = lists.read_list(path, name, labels=labels)
    above = f"{bucket}/{key.rpartition('/')[0]}".rstrip("/")
    labelled = None if marks is None else class_names(name, marks, len(paths), ids=paths)
    return of_paths(name, paths, labelled, above)


def of_paths(name: str, paths: Sequence[str], labels: tuple[str, ...] | None, above: str) -> RemoteFiles:
    """Open images by their addresses.

    Args:
        name: what errors call the list.
        paths: addresses, or paths below `above`.
        labels: one class name an image, or None.
        above: the address of a folder.
    """
    places = [Bucket.split(path if is_address(path) else _below(above, path)) for path in paths]
    buckets, keys = [place for place, _ in places], [key for _, key in places]
    return RemoteFiles(name, clean(paths), labels, buckets, keys, [""] * len(keys))


def _below(above: str, path: str) -> str:
    """Give the address of a path below a folder; `.` and `..` are steps, as on a disk, and no names."""
    if not {".", ".."} & {*path.split("/")}:
        return f"{above}/{path}"
    bucket, folder = Bucket.split(f"{above}/")
    return f"{bucket}/{posixpath.normpath(posixpath.join('/', folder, path)).lstrip('/')}"


def _has_images(bucket: Bucket, key: str) -> bool:
    """Tell whether a Parquet file holds images, and not paths."""
    import pyarrow.parquet as parquet

    try:
        with bucket.open(key) as file:
            return holds_images(parquet.read_schema(file))
    except BadImage as error:
        raise bucket.refused(key, str(error)) from None
    except (OSError, ValueError):
        return False  # reading it as a list says why


def _open_parquet(bucket: Bucket, pattern: str, labels: bool) -> ParquetImages:
    """Open Parquet files with images."""
    found = _matching(bucket, pattern, ".parquet", "Parquet file")
    above = f"{_common([item.key for item in found])}/".lstrip("/")
    files = [
        ParquetFile(
            item.key.removeprefix(above), f"{item.size}:{item.mark}", partial(bucket.open, item.key, item)
        )
        for item in found
    ]
    return joined(f"{bucket}/{pattern}", files, labels, RemoteParquetImages)


def _matching(bucket: Bucket, pattern: str, ending: str, what: str) -> list[ObjectInfo]:
    """Find the objects that a pattern names, all with an ending."""
    found: list[ObjectInfo] = []
    for key in expand(pattern):
        plain = re.split(r"[*?\[]", key, maxsplit=1)[0]
        if plain == key:
            try:
                found.append(bucket.head(key))
            except BadImage as error:
                raise bucket.refused(key, str(error)) from None
        else:
            listed = bucket.list(plain.rpartition("/")[0])
            found += sorted((item for item in listed if _matches(item.key, key)), key=lambda item: item.key)
    if not found:
        raise NearfarError(f"no object matches {bucket}/{pattern}; give {ending} files, such as x/*{ending}.")
    odd = next((item.key for item in found if not item.key.lower().endswith(ending)), None)
    if odd is not None:
        raise NearfarError(f"{bucket}/{odd} is not a {what}; give only {ending} files.")
    return found


def _open_shards(bucket: Bucket, pattern: str, labels: bool) -> RemoteShards:
    """Open tar shards; the list of a shard's members is kept in the cache."""
    found = _matching(bucket, pattern, ".tar", "shard, which is an uncompressed tar")

    def look(item: ObjectInfo) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
        return _members(bucket, item, labels)

    heads = []
    looked = map_in_order(look, found, threads=WAITING, ahead=2 * WAITING)
    with Bar("reading headers", len(found), "shards") as bar, closing(looked):
        for one in looked:
            heads.append(one)
            bar.advance(1)
    above = f"{_common([item.key for item in found])}/".lstrip("/")
    shown = [item.key.removeprefix(above) for item in found]
    ids, where, classes, masks = arranged(f"{bucket}/{pattern}", shown, heads, labels)
    place = (where[:, 0], where[:, 1], where[:, 2])
    return RemoteShards(
        f"{bucket}/{pattern}", ids, classes, [bucket] * len(found), found, *place, masks=masks
    )


def _matches(key: str, pattern: str) -> bool:
    """Compare a key with a pattern, folder by folder: `*` stands for no /."""
    parts, wanted = key.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _common(keys: Sequence[str]) -> str:
    """Give the folder that all keys are in."""
    folders = [key.split("/")[:-1] for key in keys]
    first, last = min(folders), max(folders)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return "/".join(first[: min(same, len(last))])


def _members(
    bucket: Bucket, item: ObjectInfo, labels: bool
) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
    """List a shard's images and labels, as `shards.members` does."""
    cache, name = object_cache(), f"members\0{bucket}\0{item.key}\0{item.mark}\0{labels}"
    held = cache.get(name)
    if held is not None:
        images, marks = json.loads(held)
        return [(str(name), int(offset), int(size)) for name, offset, size in images], marks
    try:
        with bucket.open(item.key) as file:
            images, marks = members(file, labels)
    except (BadImage, tarfile.TarError, OSError, ValueError) as error:
        raise NearfarError(
            f"the shard {bucket}/{item.key} cannot be read ({error}); upload it again or leave it out."
        ) from None
    cache.put(name, json.dumps([images, marks]).encode())
    return images, marks
