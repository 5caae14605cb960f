"""Labels of images in folders: by a level of the folders or from a list, and splits side by side."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import NearfarError
from ..core.plain_path import real_path
from ..core.text import counted
from . import lists
from .csv_files import native_paths
from .named_files import look_up
from .source import FileSource, Source, class_names, clean, places_of

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there is taken


def is_split(name: str) -> bool:
    """Tell whether a folder's name is that of a split, such as train, and not of a class."""
    return name.lower() in (*_TRAIN, *_TEST)


def of_folders(folder: str, ids: Sequence[str], level: int | None = None) -> tuple[str, ...]:
    """Name each image's class by the folders that it is in.

    Args:
        folder: what errors call the collection.
        ids: paths of the images relative to it, with forward slashes.
        level: which folder on the way names the class: 1 the first, -1 the innermost; None to find it,
            where there is one reading only.

    Returns:
        One class an image.

    Raises:
        NearfarError: an image has no folder of that level, or there are several readings.
    """
    if level == 0:
        raise NearfarError("--label-level 0 names no folder; give 1 for the first or -1 for the innermost.")
    ways = [name.split("/")[:-1] for name in ids]
    least = abs(level or 1)
    short = [name for name, way in zip(ids, ways, strict=True) if len(way) < least]
    if short:
        where = "outside any class folder" if least == 1 else f"in fewer than {least} folders"
        raise NearfarError(
            f"{folder} holds {counted(len(short), 'file')} {where}, such as {short[0]!r}, without a "
            "label; move each into a folder of its class, or give a .csv with labels."
        )
    if level is None:
        level = _only_level(folder, ways)
    at = level - 1 if level > 0 else level
    # Composed, as `label_of` writes names: a Mac decomposes those of folders.
    return tuple(sys.intern(unicodedata.normalize("NFC", way[at])) for way in ways)


def _only_level(folder: str, ways: Sequence[Sequence[str]]) -> int:
    """Find the level that names the class, or ask for it."""
    first, inner = sorted({way[0] for way in ways}), sorted({way[-1] for way in ways})
    deep = any(len(way) > 1 for way in ways)
    if all(is_split(name) for name in first):
        counts = ", ".join(f"{name} ({sum(way[0] == name for way in ways):,})" for name in first)
        within = (
            ", or to nearfar evaluate, finetune or learning-curve --label-level -1 for the classes in all of "
            f"them ({_some(inner)})"
            if deep
            else ""
        )
        raise NearfarError(
            f"the first folders of {folder} are splits, not classes: {counts}; give one of them, such as "
            f"{folder.rstrip('/')}/{first[0]}{within}."
        )
    # Where every innermost folder has the same name, such as images, it names no class.
    if not deep or len(inner) == 1 or first == inner:
        return 1
    raise NearfarError(
        f"the labels of {folder} can be read in two ways: --label-level 1 takes the first folders, "
        f"{_some(first)}, and --label-level -1 the innermost folders, {_some(inner)}; give one of the two "
        "to nearfar evaluate, finetune or learning-curve; elsewhere a .csv with the columns path and label."
    )


def _some(names: Sequence[str]) -> str:
    """Count classes and name the first three."""
    return f"{counted(len(names), 'class')} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def by_level(source: Source, level: int) -> Source:
    """Label a folder's images by one level of its folders.

    Args:
        source: a folder, opened without labels.
        level: as in `of_folders`.

    Returns:
        The same images with labels.

    Raises:
        NearfarError: it is no folder, or an image has no folder of that level.
    """
    if not isinstance(source, FileSource) or not os.path.isdir(source.name):
        raise NearfarError(f"--label-level is for folders, and {source.name} is none; leave it out.")
    return replace(source, labels=of_folders(source.name, source.ids, level))


def from_list(source: Source, file: str | Path) -> Source:
    """Label images from a list.

    Args:
        source: opened without labels.
        file: a list with labels, as `lists.read_list` reads it. An image is looked up as by
            `named_files.look_up`.

    Returns:
        The same images with labels.

    Raises:
        NearfarError: the list cannot be read, gives an image two labels, or lacks an image.
    """
    path = Path(file)
    names, marks = lists.read_list(path, str(path), labels=True)
    native = native_paths(names, path.parent, path)
    labels: dict[str, str] = {}
    classes = class_names(str(path), marks or (), len(names), ids=names)
    for name, own, label in zip(clean(native), native, classes, strict=True):
        for key in {name, own, real_path(path.parent / own)}:
            if (known := labels.setdefault(key, label)) != label:
                raise NearfarError(
                    f"{file} gives {name} two labels, {known!r} and {label!r}; keep one row, or fine-tune "
                    "with --multi-label, where an image may have several."
                )
    found = look_up(labels, source.ids, places_of(source))
    missing = [name for name, label in zip(source.ids, found, strict=True) if label is None]
    if missing:
        raise NearfarError(
            f"{file} has no label for {len(missing):,} of the {len(source):,} images of {source.name}, such "
            f"as {missing[0]!r}; add a row for each, or give {file} itself in place of {source.name}."
        )
    return replace(source, labels=tuple(label for label in found if label is not None))


def open_labelled(
    data: Any, kind: str, *, label_level: int | None = None, labels: str | Path | None = None
) -> Source:
    """Open labelled images.

    Args:
        data: as `sources.open_source` takes it.
        kind: of data that is expected.
        label_level: which folder on the way to an image names its class; see `of_folders`.
        labels: a list to take the labels from; see `from_list`.

    Raises:
        NearfarError: they cannot be opened, or have no labels.
    """
    from .open import open_data

    if label_level is not None and labels is not None:
        raise NearfarError("--label-level and --labels exclude each other; give one of them.")
    if label_level is not None:
        return by_level(open_data(data, expected=kind), label_level)
    if labels is not None:
        return from_list(open_data(data, expected=kind), labels)
    return open_data(data, expected=kind, labels=True)


def splits(parent: str | Path) -> tuple[str, str]:
    """Find the training and the test images in one folder.

    Args:
        parent: a folder that holds a folder train or training, and one named test, testing, val, valid or
            validation.

    Returns:
        The two folders.

    Raises:
        NearfarError: one of them is not there.
    """
    try:
        inside = {name.lower(): name for name in os.listdir(parent) if os.path.isdir(Path(parent) / name)}
    except OSError:
        inside = {}
    train, test = (
        next((inside[name] for name in names if name in inside), None) for names in (_TRAIN, _TEST)
    )
    if train is None or test is None:
        raise NearfarError(
            f"{parent} has no folders train and test, so --test is missing; name the test images with --test."
        )
    return str(Path(parent) / train), str(Path(parent) / test)
