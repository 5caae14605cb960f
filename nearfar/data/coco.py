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

NAMES = ("_annotations.coco.json", "annotations.json", "instances.json", "coco.json")


@dataclass(frozen=True)
class Coco:
    """A COCO file.

    Attributes:
        path: the file.
        images: of each image its id, file name, height and width; a side is 0 where the file does not say.
        classes: names of the categories, in the order of their ids.
        number: category id to its place in `classes`.
        annotations: image id to what is annotated on it, as the file has it.
    """

    path: Path
    images: tuple[tuple[Any, str, int, int], ...]
    classes: tuple[str, ...]
    number: Mapping[Any, int]
    annotations: Mapping[Any, Sequence[Mapping[str, Any]]]


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
        kinds = sorted(content["categories"], key=lambda kind: kind["id"])
        images = tuple(
            (_id(one["id"]), str(one["file_name"]), int(one.get("height") or 0), int(one.get("width") or 0))
            for one in content["images"]
        )
        held: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        number = {kind["id"]: at for at, kind in enumerate(kinds)}
        for each in content["annotations"]:
            if each["category_id"] not in number:
                raise NearfarError(
                    f"{path}: an annotation has the category {each['category_id']!r}, which the file does "
                    "not list; add it to its categories."
                )
            held[each["image_id"]].append(each)
        return Coco(path, images, tuple(str(kind["name"]) for kind in kinds), number, dict(held))
    except OSError as error:
        raise NearfarError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise NearfarError(
            f"{path} is no COCO file ({type(error).__name__}: {error}); it needs images, categories and "
            "annotations."
        ) from None


def _id(value: Any) -> Any:
    """Take an id, which annotations name: a number or a text."""
    if not isinstance(value, (int, str)):
        raise TypeError(f"the id {str(value)[:40]!r} is neither a number nor a text")
    return value


def locate(coco: Coco, paths: Sequence[str]) -> dict[str, int]:
    """Join the file's images with the images of a folder: by path, else by the only file of that name.

    Args:
        coco: the file.
        paths: of the images found, relative to their folder, with forward slashes.

    Returns:
        Path to the image's place in `coco.images`; images that the file does not list are missing.
    """
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[path.rpartition("/")[2]].append(path)
    known, found = {*paths}, {}
    for at, (_, name, _, _) in enumerate(coco.images):
        plain = name.replace("\\", "/").removeprefix("./")
        alike = by_name.get(plain.rpartition("/")[2], [])
        if plain in known:
            found[plain] = at
        elif len(alike) == 1:
            found.setdefault(alike[0], at)
    return found


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
                continue
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
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    runs = list(_uncompressed(counts)) if isinstance(counts, str) else list(counts)
    if sum(runs) > height * width:
        raise ValueError("the runs are longer than the mask")
    values = np.arange(len(runs)) % 2
    flat = np.repeat(values, runs).astype(np.uint8)
    return np.resize(flat, height * width).reshape(width, height).T


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
