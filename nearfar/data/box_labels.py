"""Reads boxes around objects: COCO JSON, VOC XML or YOLO text, as they come, whichever a folder holds.

An image without a label file, or with an empty one, has no objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core.errors import NearfarError
from ..core.text import counted
from . import coco
from .csv_files import read_text
from .folders import find
from .source import FileSource, clean

TURNED = (5, 6, 7, 8)  # of EXIF's orientations, those that exchange height and width
ORIENTATION = 0x112
NAMED = 3  # bad boxes that are named one by one
Shape = tuple[int, int]
# Of an object: class name, then left, top, right and bottom in pixels, then whether it is a crowd.
Object = tuple[str, float, float, float, float, bool]


@dataclass(frozen=True)
class Boxes:
    """The objects on an image.

    Attributes:
        boxes: (k, 4) float32: left, top, right, bottom as shares of the image's width and height.
        labels: (k,) int64 class numbers.
        crowd: (k,) bool, whether a box holds many objects; such are not trained on, nor counted as missed.
        height, width: of the image, in pixels.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    height: int
    width: int


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
    folder, given = Path(data).expanduser(), None if labels is None else Path(labels).expanduser()
    if folder.suffix.lower() in (".json", ".yaml", ".yml") and given is None:
        folder, given = folder.parent, folder
    if not folder.is_dir():
        raise NearfarError(f"{folder} is no folder; give one with images and their boxes.")
    if given is not None and not given.exists():
        raise NearfarError(
            f"there is no --labels {given}; give a COCO file or a folder of .xml or .txt files."
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
    xml, text = (_by_stem(place, suffix) for suffix in ("xml", "txt"))
    if xml:
        return _of_files(folder, paths, xml, _read_voc, None)
    names = _yolo_names(given if given is not None and given.is_file() else place, folder)
    text = {stem: path for stem, path in text.items() if path.name != "classes.txt"}
    if text or names:
        return _of_files(folder, paths, text, _yolo_reader(names), names)
    raise NearfarError(
        f"{folder} holds no boxes: it needs a COCO .json, VOC's .xml or YOLO's .txt files; name them with "
        "--labels."
    )


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Find label files by their names without endings; below different folders names may repeat."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"*.{suffix}")):
        relative = path.relative_to(folder).with_suffix("")
        found[relative.as_posix()] = path
        found.setdefault(relative.name, path)
    return found


def _label_file(path: str, files: dict[str, Path]) -> Path | None:
    """Find an image's label file: beside it, in the folder that mirrors its own, or the one of its name."""
    stem = path.rpartition(".")[0]
    mirrored = "/".join("labels" if part in ("images", "JPEGImages") else part for part in stem.split("/"))
    for key in (stem, mirrored, stem.rpartition("/")[2]):
        if key in files:
            return files[key]
    return None


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
    objects, shapes, without = [], [], 0
    for path in paths:
        shape, file = upright_shape(folder / path), _label_file(path, files)
        without += file is None
        shapes.append(shape)
        objects.append([] if file is None else read(file, shape))
    classes = tuple(names) if names else tuple(sorted({one[0] for some in objects for one in some}))
    notes = [f"{without:,} of {len(paths):,} images have no label file, so no objects."] if without else []
    return _labels(folder, paths, objects, shapes, classes, notes)


def _of_coco(folder: Path, paths: Sequence[str], file: coco.Coco) -> BoxLabels:
    """Take the boxes of a COCO file; images that it does not list are left out."""
    at = coco.locate(file, paths)
    if not at:
        raise NearfarError(f"none of the images of {file.path} is in {folder}; give the folder they are in.")
    kept = sorted(at)
    objects, shapes = [], []
    for path in kept:
        key = file.images[at[path]][0]
        some: list[Object] = []
        for one in file.annotations.get(key, ()):
            try:
                left, top, width, height = map(float, one.get("bbox") or (0, 0, 0, 0))
            except (TypeError, ValueError, OverflowError):
                raise NearfarError(
                    f"{file.path}: an annotation of {path} has the bbox {str(one['bbox'])[:40]}; write four "
                    "numbers: left, top, width, height."
                ) from None
            name = file.classes[file.number[one["category_id"]]]
            some.append((name, left, top, left + width, top + height, bool(one.get("iscrowd"))))
        objects.append(some)
        shapes.append(upright_shape(folder / path))
    missing, beside = len(file.images) - len(kept), len(paths) - len(kept)
    notes = (
        [f"{counted(missing, 'image is')} named in {file.path.name} and not in {folder}."] if missing else []
    )
    if beside:
        notes.append(
            f"{counted(beside, 'image is')} left out: in {folder} and not named in {file.path.name}."
        )
    return _labels(folder, kept, objects, shapes, file.classes, notes)


def _labels(
    folder: Path,
    paths: Sequence[str],
    objects: Sequence[Sequence[Object]],
    shapes: Sequence[Shape],
    classes: Sequence[str],
    notes: list[str],
) -> BoxLabels:
    """Clip boxes to their images, and drop those without an area by name."""
    number = {name: at for at, name in enumerate(classes)}
    found, bad, clipped = [], [], 0
    for path, some, (height, width) in zip(paths, objects, shapes, strict=True):
        boxes, labels, crowds = [], [], []
        for at, (name, *corners, crowd) in enumerate(some):
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
            crowds.append(crowd)
        found.append(
            Boxes(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(labels, np.int64),
                np.array(crowds, bool),
                height,
                width,
            )
        )
    if bad:
        more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        notes.append(f"Boxes without an area are left out: {'; '.join(bad[:NAMED])}{more}.")
    if clipped:
        notes.append(f"{counted(clipped, 'box was')} clipped at the edge of the image.")
    source = FileSource(str(folder), clean(paths), None, folder, list(paths))
    return BoxLabels(source, tuple(found), tuple(classes), tuple(notes))


def _read_voc(path: Path, shape: Shape) -> list[Object]:
    """Read a VOC file."""
    content = path.read_bytes()
    if b"<!ENTITY" in content.replace(b"\0", b""):  # in UTF-16 too
        raise NearfarError(f"{path} defines entities, which labels never need; it is not read.")
    try:
        found = []
        for one in ElementTree.fromstring(content).iter("object"):
            box = one.find("bndbox")
            if box is None:
                raise ValueError("an object has no bndbox")
            left, top, right, bottom = (
                float(box.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax")
            )
            found.append(((one.findtext("name") or "").strip(), left, top, right, bottom, False))
        return found
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # of an unknown encoding the last
        raise NearfarError(f"{path} cannot be read as a VOC file ({error}); fix or remove it.") from None


def _yolo_reader(names: Sequence[str] | None) -> Callable[[Path, Shape], list[Object]]:
    """Make a reader of lines `class x y width height`, shares of the sides; outlines become their boxes."""

    def read(path: Path, shape: Shape) -> list[Object]:
        found: list[Object] = []
        height, width = shape
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            try:
                kind, values = int(words[0]), np.array([float(word) for word in words[1:]])
                if kind < 0 or len(values) < 4:
                    raise ValueError
                name = str(kind) if names is None else names[kind]
            except (ValueError, IndexError):
                raise NearfarError(
                    f"{path}, line {number}: write an object as class x y width height, the class one of "
                    f"{0 if names is None else len(names)} that are named."
                    if names
                    else f"{path}, line {number}: write an object as class x y width height."
                ) from None
            if len(values) in (4, 5):
                middle, size = values[:2], values[2:4]
                low, high = middle - size / 2, middle + size / 2
            else:
                points = values[: len(values) // 2 * 2].reshape(-1, 2)
                low, high = points.min(0), points.max(0)
            (left, top), (right, bottom) = (low * (width, height)).tolist(), (high * (width, height)).tolist()
            # Rounding in the text moves a border by less than a thousandth of a pixel.
            left, top = (v if abs(v) > 1e-3 else 0.0 for v in (left, top))
            right = width if abs(right - width) < 1e-3 else right
            bottom = height if abs(bottom - height) < 1e-3 else bottom
            found.append((name, left, top, right, bottom, False))
        return found

    return read


def _yolo_names(place: Path, folder: Path) -> tuple[str, ...] | None:
    """Find the names of YOLO's classes: in a .yaml, or in classes.txt; None where there are none."""
    files = [place] if place.is_file() else []
    for where in (place, folder, folder.parent):
        if where.is_dir():
            files += [*sorted(where.glob("*.yaml")), *sorted(where.glob("*.yml")), where / "classes.txt"]
    for file in files:
        if file.name == "classes.txt" and file.is_file():
            return tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
        if file.suffix in (".yaml", ".yml"):
            try:
                names = read_yaml_names(read_text(file))
            except ValueError:
                raise NearfarError(
                    f"{file} cannot be read: below names: it has lines that are not NUMBER: NAME; fix them."
                ) from None
            if names:
                return names
    return None


def read_yaml_names(text: str) -> tuple[str, ...]:
    """Read the list or the table `names` of a YOLO file; of YAML no more than its three usual forms.

    Args:
        text: of the file.

    Returns:
        The names; none where there is no such list.

    Raises:
        ValueError: the number of a name is none.
    """

    def plain(word: str) -> str:
        return word.strip().strip("'\"").strip()

    lines = [line.split(" #")[0].rstrip() for line in text.splitlines()]
    start = next((at for at, line in enumerate(lines) if line.startswith("names:")), None)
    if start is None:
        return ()
    first = lines[start].removeprefix("names:").strip()
    if first:
        joined = " ".join([first, *lines[start + 1 :]])
        inside = joined[1 : joined.find("]" if joined[0] == "[" else "}")]
        words = [word for word in inside.split(",") if word.strip()]
        return tuple(plain(word.partition(":")[2] if joined[0] == "{" else word) for word in words)
    names: list[tuple[Any, str]] = []
    for line in lines[start + 1 :]:
        if not line.strip():
            continue
        if line.strip().startswith("- "):
            names.append((len(names), plain(line.strip()[2:])))
        elif line.startswith((" ", "\t")) and ":" in line:
            key, _, name = line.strip().partition(":")
            names.append((int(key), plain(name)))
        else:
            break
    return tuple(name for _, name in sorted(names))


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
