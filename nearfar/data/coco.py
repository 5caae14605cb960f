"""Reads COCO JSON: images, categories, and annotations with boxes or outlines; and writes boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import NearfarError
from ..core.shapes import loads
from ..core.text import counted

NAMES = ("_annotations.coco.json", "annotations.json", "instances.json", "coco.json")


@dataclass(frozen=True)
class Coco:
    """A COCO file.

    Attributes:
        path: the file.
        images: of each image its id, file name, height and width; a side is 0 where the file does not say.
        classes: names of the categories, in the order of their ids.
        number: category id to its place in `classes`; several of one name share it.
        annotations: image id to what is annotated on it, as the file has it.
        strays: annotations of images that the file does not list.
    """

    path: Path
    images: tuple[tuple[Any, str, int, int], ...]
    classes: tuple[str, ...]
    number: Mapping[Any, int]
    annotations: Mapping[Any, Sequence[Mapping[str, Any]]]
    strays: int = 0

    def notes(self, folder: Path, missing: int) -> list[str]:
        """Say what of the file is not used: images that are not in a folder, and strays."""
        notes = []
        if missing:
            notes.append(f"{counted(missing, 'image is')} named in {self.path.name} and not in {folder}.")
        if self.strays:
            what = counted(self.strays, "annotation is")
            notes.append(f"{what} left out: of no image that {self.path.name} lists.")
        return notes


def find(folder: Path) -> Path | None:
    """Find the COCO file of a folder: one of the usual names, or the only .json that has images.

    Args:
        folder: where to look, and in `annotations/` below it.

    Returns:
        The file, or None.

    Raises:
        NearfarError: there are several.
    """
    for place in (folder, folder / "annotations"):
        for name in NAMES:
            if (place / name).is_file():
                return place / name
        found = [path for path in sorted(place.glob("*.json")) if _is_coco(path)]
        if len(found) > 1:
            listed = ", ".join(path.name for path in found[:4])
            raise NearfarError(f"{place} holds several COCO files ({listed}); name one with --labels.")
        if found:
            return found[0]
    return None


def _is_coco(path: Path) -> bool:
    """Tell whether a .json holds images and annotations."""
    try:
        content = loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= {*content}


def read(path: Path) -> Coco:
    """Read a COCO file.

    Args:
        path: the file.

    Returns:
        What it says; nothing about pixels is checked.

    Raises:
        NearfarError: it is no such file.
    """
    try:
        content = loads(path.read_bytes())
        kinds = sorted(content["categories"], key=lambda kind: _order(_id(kind["id"])))
        classes = tuple(dict.fromkeys(str(kind["name"]).strip() for kind in kinds))
        if "" in classes:
            raise NearfarError(f"{path}: a category has an empty name; name it.")
        number = {_id(kind["id"]): classes.index(str(kind["name"]).strip()) for kind in kinds}
        if len(number) < len(kinds):
            raise NearfarError(f"{path}: two categories have the same id; give each its own.")
        images = tuple(
            dict.fromkeys(
                (
                    _id(one["id"]),
                    str(one["file_name"]),
                    int(one.get("height") or 0),
                    int(one.get("width") or 0),
                )
                for one in content["images"]
            )
        )
        _refuse_twins(path, images)
        held: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        listed, strays = {one[0] for one in images}, 0
        for each in content["annotations"]:
            if _id(each["category_id"]) not in number:
                raise NearfarError(
                    f"{path}: an annotation has the category {each['category_id']!r}, which the file does "
                    "not list; add it to its categories."
                )
            key = _id(each["image_id"])
            strays += key not in listed
            held[key].append({**each, "category_id": _id(each["category_id"])})
        if strays and not listed.intersection(held):
            raise NearfarError(
                f"{path}: no annotation is of an image that it lists; write the id of an image as its "
                "image_id."
            )
        return Coco(path, images, classes, number, dict(held), strays)
    except OSError as error:
        raise NearfarError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise NearfarError(
            f"{path} is no COCO file ({type(error).__name__}: {error}); it needs images, categories and "
            "annotations."
        ) from None


def _id(value: Any) -> str:
    """Write an id as a text: one program's 7 is another's "7" or 7.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"the id {str(value)[:40]!r} is neither a number nor a text")
    return str(value).strip()


def _order(key: str) -> tuple[bool, int, str]:
    """Sort ids as numbers where they are such."""
    number = key.removeprefix("-").isdecimal() and len(key) < 40
    return not number, int(key) if number else 0, key


def _refuse_twins(path: Path, images: Sequence[tuple[str, str, int, int]]) -> None:
    """Refuse two images of one id, whose annotations would be mixed, and two ids of one file."""
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    for key, name, *_ in images:
        if (other := names.setdefault(key, name)) != name:
            raise NearfarError(
                f"{path} gives {other} and {name} the same id, {key}; give each image its own, and its "
                "annotations with it."
            )
        if (twin := keys.setdefault(name, key)) != key:
            raise NearfarError(
                f"{path} lists {name} twice, with the ids {twin} and {key}; keep one, and give it the "
                "annotations of both."
            )


def locate(coco: Coco, paths: Sequence[str]) -> dict[str, int]:
    """Join the file's images with the images of a folder: by path, else by the only file of that name.

    Args:
        coco: the file.
        paths: of the images found, relative to their folder, with forward slashes.

    Returns:
        Path to the image's place in `coco.images`; images that the file does not list are missing, and those
        of whose name it lists several.
    """
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[path.rpartition("/")[2]].append(path)
    known, found = {*paths}, {}
    loose: defaultdict[str, list[int]] = defaultdict(list)
    for at, (_, name, _, _) in enumerate(coco.images):
        plain = name.replace("\\", "/").removeprefix("./")
        alike = by_name.get(plain.rpartition("/")[2], [])
        if plain in known:
            found[plain] = at
        elif len(alike) == 1:
            loose[alike[0]].append(at)
    return found | {path: at for path, (at, *more) in loose.items() if path not in found and not more}


def draw(shapes: Sequence[tuple[int, Any]], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw outlines into a mask, the larger ones first, so that small ones stay visible.

    Args:
        shapes: of each its value, and a COCO segmentation: polygons (lists of x, y), or a run-length code.
        height, width: of the mask.

    Returns:
        (height, width) uint8, 0 where there is none.
    """
    from PIL import Image, ImageDraw

    parts = []
    for value, shape in shapes:
        if isinstance(shape, Mapping):
            if list(shape["size"]) != [height, width]:
                raise ValueError("the run-length code is of another size than its image")
            part = run_lengths(shape["counts"], height, width).astype(bool)
        else:
            canvas = Image.new("1", (width, height))
            for polygon in shape:
                points = np.asarray(polygon, np.float64).reshape(-1, 2)
                if len(points) >= 3:
                    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.tolist()], fill=1)
            part = np.asarray(canvas)
        if part.shape == (height, width):
            parts.append((int(part.sum()), value, part))
    mask = np.zeros((height, width), np.uint8)
    for _, value, part in sorted(parts, key=lambda one: -one[0]):
        mask[part] = value
    return mask


def run_lengths(counts: str | bytes | Sequence[int], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Decode a run-length code, plain or compressed.

    Args:
        counts: lengths of runs of 0 and 1 in turn, down the columns; or these as COCO's text.
        height, width: of the mask.

    Returns:
        (height, width) uint8, 0 or 1.
    """
    runs = _runs(counts, height, width)
    values = np.arange(len(runs)) % 2
    flat = np.repeat(values, runs).astype(np.uint8)
    return flat.reshape(width, height).T


def box_around(shape: Any) -> tuple[float, float, float, float]:
    """Find the box of an outline.

    Args:
        shape: a COCO segmentation, as `draw` takes it.

    Returns:
        Left, top, width and height in pixels; all 0 where it covers nothing.

    Raises:
        ValueError, TypeError, LookupError: it is no segmentation.
    """
    if not isinstance(shape, Mapping):
        parts = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in shape]
        points = np.concatenate([np.zeros((0, 2)), *(part for part in parts if len(part) >= 3)])
        if not len(points):
            return 0.0, 0.0, 0.0, 0.0
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return left, top, right - left, bottom - top
    height, width = map(int, shape["size"])
    runs = np.array(_runs(shape["counts"], height, width), np.int64)
    ends = np.cumsum(runs)
    drawn = (np.arange(len(runs)) % 2 == 1) & (runs > 0)
    if not drawn.any():
        return 0.0, 0.0, 0.0, 0.0
    first, last = (ends - runs)[drawn], ends[drawn] - 1  # pixels, counted down the columns
    left, right = int(first.min()) // height, int(last.max()) // height + 1
    if (first // height != last // height).any():  # a run ends a column and begins the next
        return left, 0, right - left, height
    top, bottom = int((first % height).min()), int((last % height).max()) + 1
    return left, top, right - left, bottom - top


def _runs(counts: str | bytes | Sequence[int], height: int, width: int) -> list[int]:
    """Read the lengths of a run-length code, which together are a mask."""
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    runs = list(_uncompressed(counts)) if isinstance(counts, str) else list(counts)
    if sum(runs) != height * width:
        raise ValueError("the runs are longer or shorter than the mask")
    return runs


def _uncompressed(text: str) -> Iterator[int]:
    """Read COCO's text: six bits a letter, the lowest first; from the third on, less the last but one."""
    kept: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 31) << shift
            more, shift, at = bool(bits & 32), shift + 5, at + 1
            if not more and bits & 16:
                value |= -1 << shift
        if len(kept) > 2:
            value += kept[-2]
        kept.append(value)
        yield value


def document(rows: Iterable[Sequence[Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Make a COCO file of found boxes.

    Args:
        rows: path, class, score, left, top, right, bottom, and the image's width and height in pixels; an
            image without objects has a row with an empty class.
        classes: all names.

    Returns:
        What the file holds.
    """
    kinds = [{"id": at + 1, "name": name} for at, name in enumerate(classes)]
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for path, name, score, *corners, width, height in rows:
        image = {"id": len(images) + 1, "file_name": path, "width": width, "height": height}
        image = images.setdefault(path, image)
        if not name:
            continue
        left, top, right, bottom = corners
        box = [left, top, round(right - left, 2), round(bottom - top, 2)]
        one = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": classes.index(name) + 1}
        area = round(box[2] * box[3], 2)
        annotations.append({**one, "bbox": box, "area": area, "iscrowd": 0, "score": score})
    return {"images": list(images.values()), "categories": kinds, "annotations": annotations}
