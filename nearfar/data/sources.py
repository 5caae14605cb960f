"""Opens the user's DATA: a folder, a list, an array, tar shards, a data set's name."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..core.arrays import ERRORS, open_arrays
from ..core.errors import NearfarError, nearest
from ..core.plain_path import from_home, plain_path
from ..core.redact import redact
from . import hubs, lists
from .endings import parted
from .folders import find, is_image_name, told
from .image_columns import holds_images
from .in_memory import from_tensor, is_tensor, open_in_memory
from .labels import of_folders
from .lance import open_lance
from .masks import masks_among
from .names import Names
from .object_store import is_address
from .parquet import open_parquet
from .shards import open_shards
from .source import FileSource, Source, class_names, clean, from_array

__all__ = ["Source", "open_source"]


def _open_folder(folder: Path, labels: bool) -> FileSource:
    """Open a folder of any depth; a label is the name of a folder on the way to an image."""
    others: Counter[str] = Counter()
    try:
        paths = find(folder, others)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NearfarError(f"the folder {folder} cannot be read: {reason}; check its permissions.") from None
    if not paths:
        names = os.listdir(folder)
        ending = next((at for at in (".tar", ".parquet") if any(name.endswith(at) for name in names)), None)
        hint = f"for its shards type '{folder}/*{ending}'" if ending else "give a folder of JPEG or PNG files"
        held = f" ({'; '.join(told(others))})" if others else ""
        raise NearfarError(f"there is no image in {folder}{held}; {hint}.")
    masks = masks_among(paths)
    if masks:
        paths = Names.of(path for path in paths if path not in masks)
    ids = clean(paths)
    named = of_folders(str(folder), ids) if labels else None
    return FileSource(str(folder), ids, named, folder, paths, masks=clean(sorted(masks)), others=dict(others))


def _open_numpy(path: Path, labels: bool) -> Source:
    """Open a .npy of images, or a .npz with images and, for labels, labels."""
    marks = None
    try:
        if path.suffix.lower() == ".npy":
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
            if labels:
                raise NearfarError(f"{path} has no labels; use a .npz with the arrays 'images' and 'labels'.")
        else:
            with open_arrays(path) as file:
                held = {name.lower(): name for name in file.files}
                at = next((held[name] for name in ("images", "x", "data", "arr_0") if name in held), None)
                mark = next((held[name] for name in ("labels", "y", "targets") if name in held), None)
                missing = "images" if at is None else "labels" if labels and mark is None else None
                if missing:
                    has = ", ".join(file.files) or "nothing"
                    raise NearfarError(f"{path} has no array {missing!r} (it has {has}); name it so.")
                pixels, marks = file[at], file[mark] if labels else None
    except ERRORS as error:
        raise NearfarError(f"{path} cannot be read as NumPy arrays: {str(error).rstrip('.')}.") from None
    return from_array(str(path), pixels, marks, first=False)


def _open_file(path: Path, labels: bool) -> Source:
    """Open a file that exists: a list, arrays or a shard."""
    suffix = path.suffix.lower()
    if suffix == ".parquet" and _has_images(path):
        return open_parquet(str(path), labels=labels)
    if suffix in lists.SUFFIXES:
        listed = lists.open_list(path, labels=labels)
        if is_address(listed.paths[0]):
            from .remote import of_paths

            return of_paths(listed.name, listed.paths, listed.labels, "")
        return listed
    if suffix in (".npy", ".npz"):
        return _open_numpy(path, labels)
    if suffix == ".tar":
        return open_shards(str(path), labels=labels)
    if is_image_name(path.name):
        raise NearfarError(f"{path} is one image; give the folder it is in: {path.parent}")
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")):
        raise NearfarError(f"{path} is compressed; unpack it first and give the folder.")
    raise NearfarError(
        f"{path} is not a list of images; give a folder, a list ({', '.join(lists.SUFFIXES)}), "
        "an array (.npy, .npz) or shards (.tar)."
    )


def _has_images(path: Path) -> bool:
    """Tell whether a Parquet file holds images, and not paths."""
    import pyarrow.parquet as parquet

    try:
        return holds_images(parquet.read_schema(plain_path(path)))
    except (OSError, ValueError):
        return False  # reading it as a list says why


def _open_name(text: str, labels: bool, download: bool) -> Source:
    """Open what is named by a string: if a path and a data set have the same name, the path is used."""
    path = from_home(text)
    try:
        if path.is_dir() and path.suffix == ".lance":
            return open_lance(str(path), labels=labels)
        if path.is_dir():
            return _open_folder(path, labels)
        if path.exists():
            return _open_file(path, labels)
    except (OSError, ValueError) as error:
        raise NearfarError(f"{text!r} cannot be opened: {error}; give a folder of images.") from None
    if text.startswith("hf:") and not is_address(text):
        return hubs.open_hugging_face(text[3:], labels=labels)
    if is_address(text):
        from .remote import open_remote

        return open_remote(text, labels=labels)
    if "://" in text:
        raise NearfarError(
            f"{redact(text)!r} is an address of a kind that is not read; use s3://, gs://, hf:// or https://."
        )
    if any(char in text for char in "*?[{") and path.suffix.lower() == ".parquet":
        return open_parquet(str(path), labels=labels)
    if any(char in text for char in "*?[{") or text.endswith(".tar"):
        return open_shards(str(path), labels=labels)
    if text.lower().partition(":")[0] in hubs.TORCHVISION:
        return hubs.open_torchvision(text, labels=labels, download=download)
    beside = os.listdir(path.parent) if path.parent.is_dir() else []
    seen = [name for name in beside[:10_000] if not name.startswith(".")]
    near = nearest(path.name, [*hubs.TORCHVISION, *seen])
    raise NearfarError(f"there is no {text!r} here, and no data set of that name; {near}")


def open_source(data: Any, *, labels: bool = False, download: bool = True) -> Source:
    """Open images of any kind, without reading a pixel of files on disk.

    Args:
        data: a folder of any depth; a .txt, .csv, .tsv or .parquet list of paths; a .npy or .npz; tar
            shards (`'shards/*.tar'`) or Parquet files with images; a .lance data set; an s3://, gs://, hf://
            or https:// address of such; a data set's name (`cifar10`, `cifar10:test`, `hf:org/name`); a NumPy
            array or tensor of images (N, H, W), (N, H, W, C) or (N, C, H, W); a list of paths, Pillow images,
            arrays or tensors; a pair (images, labels) of such; or a `Source`.
        labels: whether labels are wanted; without it, none are read.
        download: whether a torchvision data set may be fetched where it is missing.

    Returns:
        The source.

    Raises:
        NearfarError: there is nothing of that kind, no image in it, or no label where labels are wanted.
    """
    if isinstance(data, Source):
        if labels and data.labels is None:
            raise NearfarError(f"{data.name} was opened without labels; open it with labels=True.")
        return data
    if isinstance(data, (str, os.PathLike)):
        return _open_name(os.fspath(data), labels, download)
    data, marks = parted(data)
    if labels and marks is None:
        raise NearfarError("images without labels are not enough here; pass the pair (images, labels).")
    if is_tensor(data):
        return from_array("the tensor", from_tensor(data), marks if labels else None, first=True)
    if isinstance(data, np.ndarray) and data.dtype.kind not in "UO":
        return from_array("the array", data, marks if labels else None, first=False)
    if hasattr(data, "tolist"):  # an array or a column of paths
        data = data.tolist()
    if isinstance(data, (list, tuple)):
        named = class_names("the list", marks, len(data)) if labels and marks is not None else None
        return open_in_memory(data, named)
    raise NearfarError(
        f"images cannot be taken from a {type(data).__name__}; give a folder, a list of images or an array "
        "(N, H, W, 3)."
    )
