"""Reads labels of pixels: masks in image files, or outlines in a COCO file, as class numbers.

The values of masks may be anything with gaps: 0, 128 and 255, the numbers of a palette, 16 bits, or colours.
They are numbered in ascending order. Where a mask of a folder has colours, grey is a colour in all of them.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import NearfarError
from ..core.plain_path import from_home
from ..core.text import counted
from ..core.threads import map_in_order
from ..images.files import MAX_PIXELS
from . import coco
from .box_labels import upright_shape
from .csv_files import read_text
from .folders import find
from .label_files import joined, same_shape
from .mask_values import any_colours, has_palette, read_values
from .masks import image_of_mask, masks_among
from .source import FileSource, clean

IGNORED = 255  # the class number of pixels that count for nothing
MOST = 255  # classes
VOID = 255  # of a palette, the value that stands for a border
BACKGROUND = "background"

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file; `numbers` gives the class of each value, others are ignored.

    `colours` is as for `read_values`.
    """

    path: Path
    numbers: Mapping[int, int]
    colours: bool = False

    def read(self) -> Mask:
        """Give (height, width) class numbers, `IGNORED` where none counts."""
        values, at = np.unique(read_values(self.path, self.colours), return_inverse=True)
        wanted = np.array([self.numbers.get(int(value), IGNORED) for value in values], np.uint8)
        return wanted[at]


@dataclass(frozen=True)
class Outlines:
    """The outlines on an image: of each its class number and a COCO segmentation; the rest is class 0."""

    shapes: tuple[tuple[int, Any], ...]
    height: int
    width: int
    where: str = "an image"  # how an error names the file and the image

    def read(self) -> Mask:
        """Give (height, width) class numbers."""
        try:
            return coco.draw(self.shapes, self.height, self.width)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError):
            raise NearfarError(
                f"{self.where} has an outline that is no list of x, y and no run-length code of its "
                "size; fix or remove it."
            ) from None


@dataclass(frozen=True)
class PixelLabels:
    """Images with a mask each.

    Attributes:
        source: the images.
        masks: one an image.
        classes: names, in the order of their numbers.
        values: the masks' value of each class; empty where they come from outlines.
        notes: what was left out, a sentence each.
        colours: whether values are colours.
    """

    source: FileSource
    masks: tuple[MaskFile | Outlines, ...]
    classes: tuple[str, ...]
    values: tuple[int, ...]
    notes: tuple[str, ...]
    colours: bool = False


def open_pixel_labels(
    data: str | Path,
    labels: str | Path | None = None,
    *,
    ignore: int | None = None,
    workers: int = 1,
    colours: bool = False,
) -> PixelLabels:
    """Open a folder of images and their masks.

    Args:
        data: a folder with masks beside the images (`x.jpg` and `x_mask.png`, or `x.bmp` and `x.png`), in a
            folder of their own (`images/x.jpg` and `masks/x.png`), or with a COCO file; or that COCO file.
        labels: a folder of masks named like the images, or a COCO file, where they lie elsewhere.
        ignore: a value of masks whose pixels count for nothing.
        workers: threads that read masks.
        colours: whether values are colours, as those of the masks that were trained on; masks with a colour
            say so themselves.

    Returns:
        The images that have a mask.

    Raises:
        NearfarError: there are no masks, or one cannot be read.
    """
    if not isinstance(data, str | os.PathLike):
        raise NearfarError(
            f"masks cannot be taken from a {type(data).__name__}; give a folder with images and masks."
        )
    folder, given = from_home(data), None if labels is None else from_home(labels)
    if folder.suffix.lower() == ".json" and given is None:
        folder, given = folder.parent, folder
    if not folder.is_dir():
        raise NearfarError(f"{folder} is no folder; give one with images and masks.")
    if given is None:
        paths = find(folder)
        pairs, several = _pairs(paths)
        if pairs:
            found = {image: folder / mask for image, mask in pairs.items()}
            without = len({*paths} - {*pairs} - {*pairs.values()} - masks_among(paths) - {*several})
            return _of_files(folder, found, without, several, ignore, workers, colours)
        given = coco.find(folder)
    if given is None:
        raise NearfarError(
            f"{folder} holds no masks: name them like their images (x.jpg and x_mask.png, or images/x.jpg "
            "and masks/x.png), or give a folder of masks or a COCO file with --labels."
        )
    if given.is_dir():
        files = [(_place(path), given / path) for path in find(given)]
        twice = {name for name, count in Counter(name for name, _ in files).items() if count > 1}
        inside = {file.resolve() for _, file in files} if given.resolve() != folder.resolve() else set()
        images = [path for path in find(folder) if (folder / path).resolve() not in inside]
        several = [path for path in images if _place(path) in twice]
        single = {path: (_place(path),) for path in images if _place(path) not in twice}
        own = joined(single, {name: file for name, file in files if name not in twice})
        own = {path: mask for path, mask in own.items() if mask != folder / path}
        if not own:
            raise NearfarError(f"no mask in {given} is named like an image in {folder}; name them alike.")
        without = len(images) - len(own) - len(several)
        return _of_files(folder, own, without, several, ignore, workers, colours)
    return _of_coco(folder, coco.read(given))


def _stem(path: str) -> str:
    """Give a path without its ending, and without the word that marks a mask."""
    name = path.rpartition("/")[2].rpartition(".")[0]
    return image_of_mask(name)


def _place(path: str) -> str:
    """Give a path without its ending and that word, and with its folders."""
    folders, bar, _ = path.rpartition("/")
    return folders + bar + _stem(path)


def _pairs(paths: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Find the mask of each image, by their names; nothing where the names say too little.

    Also name the images that have several masks.
    """
    masks = masks_among(paths)
    found: dict[str, str] = {}
    several: set[str] = set()
    if masks:
        by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in paths:
            if path not in masks:
                by_stem[_stem(path)].append(path)
        for mask in sorted(masks):
            alike = by_stem.get(_stem(mask), [])
            for image in alike if len(alike) == 1 else _nearest(mask, alike):
                if image in found:
                    several.add(image)
                found[image] = mask
        if found and not {*found} - several:
            image = min(several)
            raise NearfarError(
                f"each image has several masks, such as {image}; join those of an image into one, or name a "
                "folder of one mask an image with --labels."
            )
        return {image: found[image] for image in sorted(found) if image not in several}, sorted(several)
    # x.bmp and x.png in one folder: the PNG is the mask, where no image is a PNG.
    by_place: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_place[path.rpartition(".")[0]].append(path)
    for alike in by_place.values():
        masks_here = [path for path in alike if path.lower().endswith(".png")]
        if len(alike) == 2 and len(masks_here) == 1:
            found[next(path for path in alike if path != masks_here[0])] = masks_here[0]
    return (dict(sorted(found.items())) if 2 * len(found) == len(paths) else {}), []


def _nearest(mask: str, images: Sequence[str]) -> list[str]:
    """Choose among images of one name in several folders: the one that shares most folders with the mask."""

    def shared(image: str) -> int:
        return len({*image.split("/")[:-1]} & {*mask.split("/")[:-1]})

    best = max((shared(image) for image in images), default=0)
    nearest = [image for image in images if shared(image) == best]
    return nearest if len(nearest) == 1 else []


def _of_files(
    folder: Path,
    pairs: Mapping[str, Path],
    without: int,
    several: Sequence[str],
    ignore: int | None,
    workers: int,
    colours: bool,
) -> PixelLabels:
    """Read all masks once, to know which values there are.

    Of images that are left out, `without` counts those without a mask, and `several` names those with more.
    """
    images, files = sorted(pairs), [pairs[image] for image in sorted(pairs)]
    colours = colours or any_colours(files, workers)
    seen: set[int] = set()
    void = False

    def values_of(path: Path) -> tuple[set[int], bool]:
        return {*np.unique(read_values(path, colours)).tolist()}, not colours and has_palette(path)

    for path, (some, palette) in zip(
        files, map_in_order(values_of, files, threads=workers, ahead=4 * workers), strict=True
    ):
        void = void or (palette and VOID in some)
        seen |= some
        if len(seen) > MOST:
            raise NearfarError(
                f"the masks in {folder} have more than {MOST} values (at {path.name}); give masks with one "
                "value a class, saved as PNG without smoothing."
            )
    notes = [f"{counted(without, 'image is')} left out of {folder}: without a mask."] if without else []
    if several:
        what = counted(len(several), "image is")
        notes.append(f"{what} left out of {folder}: with more than one mask, such as {several[0]}.")
    if ignore is not None:
        seen.discard(ignore)
    elif void:
        seen.discard(VOID)
        notes.append("Value 255 of masks with a palette marks borders and is left out.")
    values = tuple(sorted(seen))
    numbers = {value: at for at, value in enumerate(values)}
    source = FileSource(str(folder), clean(images), None, folder, images)
    masks = tuple(MaskFile(path, numbers, colours) for path in files)
    return PixelLabels(source, masks, _names(folder, values, colours), values, tuple(notes), colours)


def _names(folder: Path, values: Sequence[int], colours: bool) -> tuple[str, ...]:
    """Name the classes: from classes.txt, lines "VALUE NAME" or the names alone, else by their values."""
    path = folder / "classes.txt"
    if not path.is_file():
        return tuple(f"#{value:06x}" if colours else str(value) for value in values)
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if all(len(words) > 1 and words[0].isdecimal() for words in lines):
        given = {int(words[0]): " ".join(words[1:]) for words in lines}
        names = tuple(given.get(value, str(value)) for value in values)
    elif len(lines) == len(values):
        names = tuple(" ".join(words) for words in lines)
    else:
        what, there = counted(len(lines), "class"), counted(len(values), "value")
        raise NearfarError(
            f"{path} names {what} and the masks have {there}; write a line 'VALUE NAME' for each."
        )
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        several = " and ".join(str(value) for value, name in zip(values, names, strict=True) if name == twice)
        raise NearfarError(f"{path} gives the values {several} one name, {twice!r}; give each its own.")
    return names


def _of_coco(folder: Path, file: coco.Coco) -> PixelLabels:
    """Take the outlines of a COCO file; what no outline covers is background, as a category of that name."""
    at = coco.locate(file, find(folder))
    classes = tuple(dict.fromkeys((BACKGROUND, *file.classes)))
    if not at:
        raise NearfarError(f"none of the images of {file.path} is in {folder}; give the folder they are in.")
    images, masks, boxes = sorted(at), [], 0
    for path in images:
        key, _, height, width = file.images[at[path]]
        shapes = []
        for one in file.annotations.get(key, ()):
            if one.get("segmentation"):
                name = file.classes[file.number[one["category_id"]]]
                shapes.append((classes.index(name), one["segmentation"]))
            else:
                boxes += 1
        if not (height and width):
            height, width = (max(1, side) for side in upright_shape(folder / path))
        if height * width > MAX_PIXELS:
            raise NearfarError(
                f"{file.path} says that {path} is {width:,} x {height:,}, more than {MAX_PIXELS:,} pixels; "
                "fix the file."
            )
        masks.append(Outlines(tuple(shapes), height, width, f"{path} in {file.path}"))
    notes = [f"{counted(boxes, 'annotation is')} left out: with a box and no outline."] if boxes else []
    notes += file.notes(folder, len(file.images) - len(images))
    source = FileSource(str(folder), clean(images), None, folder, images)
    return PixelLabels(source, tuple(masks), classes, (), tuple(notes))


def renumbered(labels: PixelLabels, classes: Sequence[str], values: Sequence[int]) -> PixelLabels:
    """Give masks the class numbers of others, such as a test's those of the training.

    Args:
        labels: the masks.
        classes, values: of the training.

    Returns:
        The same masks with those numbers.

    Raises:
        NearfarError: a class is unknown there.
    """
    own = labels.values or labels.classes
    known: dict[Any, int] = {key: at for at, key in enumerate(values if labels.values else classes)}
    unknown = [name for name, key in zip(labels.classes, own, strict=True) if key not in known]
    if unknown:
        raise NearfarError(
            f"{labels.source.name} has the class {unknown[0]!r}, of which there is no training image; "
            "add one, or leave its value out with --ignore."
        )
    masks: list[MaskFile | Outlines] = []
    for mask in labels.masks:
        if isinstance(mask, MaskFile):
            masks.append(dataclasses.replace(mask, numbers=known))
        else:
            moved = tuple((known[labels.classes[value]], shape) for value, shape in mask.shapes)
            masks.append(dataclasses.replace(mask, shapes=moved))
    return PixelLabels(
        labels.source, tuple(masks), tuple(classes), tuple(values), labels.notes, labels.colours
    )


def fitted(mask: Mask, shape: tuple[int, ...], name: str) -> Mask:
    """Bring a mask to its image's size, nearest pixel.

    Args:
        mask: (h, w).
        shape: height and width of the image.
        name: of the mask's image, for the error.

    Returns:
        (height, width).

    Raises:
        NearfarError: its proportions are others.
    """
    if mask.shape == shape:
        return mask
    height, width = shape
    if not same_shape(mask.shape, shape):
        raise NearfarError(
            f"the mask of {name} is {mask.shape[1]} x {mask.shape[0]}, its image {width} x {height}; give "
            "masks of the same proportions."
        )
    down, across = (
        np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(np.int64)
        for n, m in zip((height, width), mask.shape, strict=True)
    )
    return mask[down[:, None], across]
