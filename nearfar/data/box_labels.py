"""Reads boxes around objects: COCO JSON, VOC XML or YOLO text, as they come, whichever a folder holds.

An image without a label file, or with an empty one, has no objects.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core.errors import NearfarError
from ..core.plain_path import from_home
from ..core.text import counted
from . import coco
from .folders import find
from .label_files import CROWD, DIFFICULT, PLAIN, Object, Odd, OtherSize, Shape, joined, scale
from .source import FileSource, clean
from .yolo_labels import yolo_names, yolo_reader

TURNED = (5, 6, 7, 8)  # of EXIF's orientations, those that exchange height and width
ORIENTATION = 0x112
FILES = (".json", ".yaml", ".yml")  # COCO's, and those that name YOLO's classes
NAMED = 3  # bad boxes that are named one by one


@dataclass(frozen=True)
class Boxes:
    """The objects on an image.

    Attributes:
        boxes: (k, 4) float32: left, top, right, bottom as shares of the image's width and height.
        labels: (k,) int64 class numbers.
        crowd: (k,) bool, whether a box holds many objects; such are not trained on, nor counted as missed.
        difficult: (k,) bool, whether a box is hard to tell even for people; such are not counted as missed.
        height, width: of the image, in pixels.
        scores: (k,) float64, as a prediction has them; NaN where none is said.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    height: int
    width: int
    scores: npt.NDArray[np.float64] | None = None

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """(k,) whether a box counts in figures."""
        return ~(self.crowd | self.difficult)


@dataclass(frozen=True)
class BoxLabels:
    """Images with their objects.

    Attributes:
        source: the images.
        boxes: one an image.
        classes: names, in the order of their numbers.
        notes: what was left out or clipped, a sentence each.
    """

    source: FileSource
    boxes: tuple[Boxes, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def open_box_labels(data: str | Path, labels: str | Path | None = None) -> BoxLabels:
    """Open a folder of images with boxes.

    Args:
        data: a folder that holds a COCO file; or VOC's x.xml, beside the images or in a folder of their own;
            or YOLO's x.txt, beside the images or in `labels/`, the names of the classes in a .yaml or in
            classes.txt; or that COCO or .yaml file.
        labels: a COCO file, a .yaml, or a folder of .xml or .txt files, where they lie elsewhere.

    Returns:
        The images and their objects.

    Raises:
        NearfarError: there are no labels, or a file is damaged.
    """
    if not isinstance(data, str | os.PathLike):
        raise NearfarError(
            f"boxes cannot be taken from a {type(data).__name__}; give a folder with images and their boxes."
        )
    folder, given = from_home(data), None if labels is None else from_home(labels)
    if folder.suffix.lower() in FILES and given is None:
        folder, given = folder.parent, folder
    if not folder.is_dir():
        raise NearfarError(f"{folder} is no folder; give one with images and their boxes.")
    if given is not None and not given.exists():
        raise NearfarError(
            f"there is no --labels {given}; give a COCO file or a folder of .xml or .txt files."
        )
    if given is not None and not given.is_dir() and not _has_boxes(given):
        raise NearfarError(
            f"--labels {given} is no file of boxes; give a COCO .json, a .yaml, or a folder of .xml or .txt "
            "files."
        )
    paths = find(folder)
    if not paths:
        raise NearfarError(f"there is no image in {folder}; give the folder that holds images and labels.")
    file = given if given is not None and given.suffix.lower() == ".json" else None
    if given is None:
        file = coco.find(folder)
    if file is not None:
        return _of_coco(folder, paths, coco.read(file))
    place = given if given is not None and given.is_dir() else folder
    xml, text = (_by_stem(place, suffix) for suffix in (".xml", ".txt"))
    if xml:
        return _of_files(folder, paths, xml, _read_voc, None)
    names, posed = yolo_names(given if given is not None and given.is_file() else place, folder)
    text = {stem: path for stem, path in text.items() if path.name != "classes.txt"}
    if text or names:
        return _of_files(folder, paths, text, yolo_reader(names, posed), names)
    raise NearfarError(
        f"{folder} holds no boxes: it needs a COCO .json, VOC's .xml or YOLO's .txt files; name them with "
        "--labels."
    )


def _has_boxes(file: Path) -> bool:
    """Tell whether a file is one that says where boxes are, or names YOLO's classes."""
    return file.suffix.lower() in FILES or file.name == "classes.txt"


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Find label files by their paths below a folder, without endings."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == suffix and path.is_file()
    }


def _stems(path: str) -> tuple[str, ...]:
    """Say what an image's label file may be called: as the image beside it, or in the mirrored folder."""
    stem = path.rpartition(".")[0]
    mirrored = "/".join("labels" if part in ("images", "JPEGImages") else part for part in stem.split("/"))
    return stem, mirrored


def upright_shape(path: Path) -> Shape:
    """Read an image's height and width, upright; 0 and 0 where it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0  # it is rejected, by name, when it is decoded
    return (width, height) if turned else (height, width)


def _of_files(
    folder: Path,
    paths: Sequence[str],
    files: dict[str, Path],
    read: Callable[[Path, Shape], list[Object]],
    names: Sequence[str] | None,
) -> BoxLabels:
    """Read a label file an image."""
    objects, shapes, kept, odd = [], [], [], Odd()
    own = joined({path: _stems(path) for path in paths}, files)
    for path in paths:
        shape, file = upright_shape(folder / path), own.get(path)
        try:
            some = [] if file is None else read(file, shape)
        except OtherSize as error:
            odd.add(path, file, error, shape)
            continue
        kept.append(path)
        shapes.append(shape)
        objects.append(some)
    classes = tuple(names) if names else tuple(sorted({one[0] for some in objects for one in some}))
    without = len(paths) - len(own)
    notes = [f"{without:,} of {len(paths):,} images have no label file, so no objects."] if without else []
    return _labels(folder, kept, objects, shapes, classes, notes + odd.notes(kept))


def _of_coco(folder: Path, paths: Sequence[str], file: coco.Coco) -> BoxLabels:
    """Take the boxes of a COCO file; images that it does not list are left out."""
    at = coco.locate(file, paths)
    if not at:
        raise NearfarError(f"none of the images of {file.path} is in {folder}; give the folder they are in.")
    objects, shapes, kept, odd = [], [], [], Odd()
    for path in sorted(at):
        key, _, *stated = file.images[at[path]]
        shape = upright_shape(folder / path)
        try:
            down, across = scale((stated[0], stated[1]), shape)
        except OtherSize as error:
            odd.add(path, file.path, error, shape)
            continue
        some: list[Object] = []
        for one in file.annotations.get(key, ()):
            left, top, width, height = _coco_box(one, f"{file.path}: an annotation of {path}")
            name = file.classes[file.number[one["category_id"]]]
            corners = left * across, top * down, (left + width) * across, (top + height) * down
            kind = CROWD if _is_said(one.get("iscrowd")) else PLAIN
            some.append(Object(name, *corners, kind, _score(one.get("score"))))
        kept.append(path)
        objects.append(some)
        shapes.append(shape)
    notes = [*file.notes(folder, len(file.images) - len(at)), *odd.notes(kept)]
    beside = len(paths) - len(at)
    if beside:
        notes.append(
            f"{counted(beside, 'image is')} left out: in {folder} and not named in {file.path.name}."
        )
    return _labels(folder, kept, objects, shapes, file.classes, notes)


def _coco_box(one: Mapping[str, Any], what: str) -> tuple[float, ...]:
    """Read the box of an annotation, or find that of its outline: left, top, width, height."""
    outline = one.get("segmentation")
    try:
        if outline and not one.get("bbox"):
            return coco.box_around(outline)
        left, top, width, height = map(float, one.get("bbox") or (0, 0, 0, 0))
        return left, top, width, height
    except (TypeError, ValueError, LookupError, OverflowError):
        if not one.get("bbox"):
            raise NearfarError(
                f"{what} has no bbox, and an outline that is neither polygons nor a run-length code; write a "
                "bbox: left, top, width, height."
            ) from None
        raise NearfarError(
            f"{what} has the bbox {str(one['bbox'])[:40]}; write four numbers: left, top, width, height."
        ) from None


def _labels(
    folder: Path,
    paths: Sequence[str],
    objects: Sequence[Sequence[Object]],
    shapes: Sequence[Shape],
    classes: Sequence[str],
    notes: list[str],
) -> BoxLabels:
    """Clip boxes to their images, and drop those without an area by name."""
    classes = tuple(dict.fromkeys(classes))  # a name that stands twice is one class
    number = {name: at for at, name in enumerate(classes)}
    found, bad, clipped = [], [], 0
    for path, some, (height, width) in zip(paths, objects, shapes, strict=True):
        boxes, labels, kinds, scores = [], [], [], []
        for at, (name, *corners, kind, score) in enumerate(some):
            lows, highs = (0.0, 0.0), (float(width), float(height))
            left, top = (
                min(max(v, low), high) for v, low, high in zip(corners[:2], lows, highs, strict=True)
            )
            right, bottom = (
                min(max(v, low), high) for v, low, high in zip(corners[2:], lows, highs, strict=True)
            )
            if not all(map(math.isfinite, corners)) or right - left <= 0 or bottom - top <= 0:
                bad.append(f"{path}, object {at + 1} ({name})")
                continue
            clipped += [left, top, right, bottom] != corners
            boxes.append((left / width, top / height, right / width, bottom / height))
            labels.append(number[name])
            kinds.append(kind)
            scores.append(score)
        found.append(
            Boxes(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(labels, np.int64),
                np.array(kinds, np.int64) == CROWD,
                np.array(kinds, np.int64) == DIFFICULT,
                height,
                width,
                np.array(scores, np.float64),
            )
        )
    if bad:
        more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        notes.append(f"Boxes without an area are left out: {'; '.join(bad[:NAMED])}{more}.")
    difficult = sum(int(one.difficult.sum()) for one in found)
    if difficult:
        what = counted(difficult, "object is")
        notes.append(f"{what} marked as difficult: trained on, but neither right nor wrong in the figures.")
    if clipped:
        notes.append(f"{counted(clipped, 'box was')} clipped at the edge of the image.")
    source = FileSource(str(folder), clean(paths), None, folder, list(paths))
    return BoxLabels(source, tuple(found), classes, tuple(notes))


def _is_said(flag: Any) -> bool:
    """Read a flag as files have it: 1, true, or a text of these."""
    return str(flag).strip().lower() in ("1", "1.0", "true")


def _score(value: Any) -> float:
    """Read the score of a predicted box; NaN where there is none."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def _read_voc(path: Path, shape: Shape) -> list[Object]:
    """Read a VOC file."""
    content = path.read_bytes()
    if b"<!ENTITY" in content.replace(b"\0", b""):  # in UTF-16 too
        raise NearfarError(f"{path} defines entities, which labels never need; it is not read.")
    try:
        found = []
        root = ElementTree.fromstring(content)
        for each in root.iter():  # names of their own spaces are the same names
            each.tag = str(each.tag).rpartition("}")[2]
        if root.tag != "annotation":
            raise ValueError(f"it begins with {root.tag[:40]!r} where 'annotation' stands")
        stated = [int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width")]
        down, across = scale((stated[0], stated[1]), shape)
        for one in root.iter("object"):
            box = one.find("bndbox")
            if box is None:
                raise ValueError("an object has no bndbox")
            left, top, right, bottom = (
                float(box.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax")
            )
            name = (one.findtext("name") or "").strip()
            if not name:
                raise ValueError("an object has no name")
            kind = DIFFICULT if _is_said(one.findtext("difficult")) else PLAIN
            found.append(Object(name, left * across, top * down, right * across, bottom * down, kind))
        return found
    except (
        ElementTree.ParseError,
        ValueError,
        LookupError,
        OverflowError,
    ) as error:  # of an unknown encoding the last
        raise NearfarError(f"{path} cannot be read as a VOC file ({error}); fix or remove it.") from None


def renumbered(labels: BoxLabels, classes: Sequence[str]) -> BoxLabels:
    """Give boxes the class numbers of others, such as a test's those of the training.

    Args:
        labels: the boxes.
        classes: of the training.

    Returns:
        The same boxes with those numbers.

    Raises:
        NearfarError: a box has a class that is unknown there.
    """
    used = {int(label) for one in labels.boxes for label in one.labels}
    unknown = [labels.classes[at] for at in sorted(used) if labels.classes[at] not in classes]
    if unknown:
        raise NearfarError(
            f"{labels.source.name} has the class {unknown[0]!r}, of which there is no training image; "
            "add one or take its boxes out."
        )
    number = np.array([classes.index(name) if name in classes else -1 for name in labels.classes], np.int64)
    moved = tuple(
        replace(one, labels=number[one.labels] if len(one.labels) else one.labels) for one in labels.boxes
    )
    return BoxLabels(labels.source, moved, tuple(classes), labels.notes)
