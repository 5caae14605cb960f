"""Opens files of a kind other than images: those of a folder, of a list, or paths in a Python list."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..core.errors import NearfarError, nearest
from ..core.plain_path import from_home
from . import lists
from .endings import ending, parted
from .folders import find, told
from .labels import of_folders
from .source import FileSource, class_names, clean


def open_files(data: Any, *, kind: str, suffixes: Collection[str], labels: bool) -> FileSource:
    """Open files of one kind, without reading one.

    Args:
        data: a folder of any depth; a .txt, .csv, .tsv or .parquet list of paths; a list of paths; or a pair
            (paths, labels).
        kind: the modality's name.
        suffixes: endings of its files, in lower case.
        labels: whether labels are wanted: the names of folders, or a list's column.

    Returns:
        The source.

    Raises:
        NearfarError: there is no such file, or no label where labels are wanted.
    """
    some = ", ".join(f".{name}" for name in sorted(suffixes))
    if isinstance(data, (str, os.PathLike)):
        path = from_home(data)
        if path.is_dir():
            return open_folder(path, kind, suffixes, some, labels)
        if not path.exists():
            beside = os.listdir(path.parent) if path.parent.is_dir() else []
            near = nearest(path.name, [name for name in beside[:10_000] if not name.startswith(".")])
            raise NearfarError(f"there is no {os.fspath(data)!r} here; {near}")
        if path.suffix.lower() in lists.SUFFIXES:
            listed = lists.open_list(path, labels=labels, suffixes=suffixes)
            return FileSource(
                listed.name, listed.ids, listed.labels, listed.root, listed.paths, modality=kind
            )
        one = ending(path.name) in suffixes
        hint = f"give the folder it is in: {path.parent}" if one else f"give a folder of {some} files"
        raise NearfarError(f"{path} is {'one example' if one else f'no list of {kind}'}; {hint}.")
    data, marks = parted(data)
    if labels and marks is None:
        raise NearfarError(f"{kind} without labels is not enough here; pass the pair (paths, labels).")
    if hasattr(data, "tolist"):
        data = data.tolist()
    if not isinstance(data, (list, tuple)) or not all(isinstance(item, (str, os.PathLike)) for item in data):
        raise NearfarError(
            f"{kind} is taken from a folder, a list or paths of {some} files; give one of these."
        )
    if not data:
        raise NearfarError("the list of paths is empty; give at least one.")
    paths = [os.fspath(item) for item in data]
    named = class_names("the list", marks, len(paths), one="file") if labels and marks is not None else None
    return FileSource("the list", clean(paths), named, Path(), paths, modality=kind)


def open_folder(folder: Path, kind: str, suffixes: Collection[str], some: str, labels: bool) -> FileSource:
    """Open a folder of any depth; a label is the name of a folder on the way to a file.

    Args:
        folder: it.
        kind: the modality's name.
        suffixes: endings of its files, in lower case.
        some: how errors name these endings.
        labels: whether labels are wanted.

    Raises:
        NearfarError: the folder cannot be read, or has no such file.
    """
    others: Counter[str] = Counter()
    try:
        paths = find(folder, others, suffixes)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NearfarError(f"the folder {folder} cannot be read: {reason}; check its permissions.") from None
    if not paths:
        held = f" ({'; '.join(told(others))})" if others else ""
        raise NearfarError(f"there is no {kind} in {folder}{held}; give a folder of {some} files.")
    ids = clean(paths)
    named = of_folders(str(folder), ids) if labels else None
    return FileSource(str(folder), ids, named, folder, paths, others=dict(others), modality=kind)
