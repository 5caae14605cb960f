"""Reads YOLO's text files of boxes and outlines, and the names of their classes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import NearfarError
from .csv_files import read_text
from .label_files import Object, Shape

FARTHEST = 2  # of the shares of a side: beyond, they are pixels
MOST = 100_000  # classes
# Of a list in brackets or a table in braces: a name, in quotes or without, behind its number if it has one.
_ITEM = re.compile(
    r"""\s*(?:(?P<key>\d+)\s*:\s*)?(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>[^']*)'|(?P<plain>[^],}]*))\s*,?"""
)

_COMMENT = re.compile(r""" #(?=[^"']*$)""")  # one in quotes belongs to a name


def yolo_reader(names: Sequence[str] | None, posed: bool) -> Callable[[Path, Shape], list[Object]]:
    """Make a reader of lines `class x y width height`, shares of the sides; outlines become their boxes.

    Args:
        names: of the classes, if they are known.
        posed: whether the points of a skeleton follow the box.

    Returns:
        What reads a file of an image of a height and width.
    """

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
            if np.abs(values[:4]).max() > FARTHEST:
                raise NearfarError(
                    f"{path}, line {number}: {' '.join(words[1:5])} are no shares of the image's sides, from "
                    "0 to 1; divide pixels by its width and height."
                )
            if posed or len(values) in (4, 5):
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
            score = float(values[4]) if len(values) == 5 and not posed else math.nan
            found.append(Object(name, left, top, right, bottom, score=score))
        return found

    return read


def yolo_names(place: Path, folder: Path) -> tuple[tuple[str, ...] | None, bool]:
    """Find the names of YOLO's classes, in a .yaml or in classes.txt.

    Args:
        place: such a file, or the folder of the labels.
        folder: of the images.

    Returns:
        The names, None where there are none; and whether objects have skeletons, as a .yaml says.

    Raises:
        NearfarError: a file cannot be read.
    """
    files = [place] if place.is_file() else []
    for where in (place, folder, folder.parent):
        if where.is_dir():
            files += [*sorted(where.glob("*.yaml")), *sorted(where.glob("*.yml")), where / "classes.txt"]
    for file in files:
        if file.name == "classes.txt" and file.is_file():
            words = [line.strip() for line in read_text(file).rstrip().splitlines()]
            return tuple(word or str(at) for at, word in enumerate(words)) or None, False
        if file.suffix.lower() in (".yaml", ".yml"):
            text = read_text(file)
            try:
                names = read_yaml_names(text)
            except ValueError:
                raise NearfarError(
                    f"{file} cannot be read: below names: it has lines that are not NUMBER: NAME; fix them."
                ) from None
            if names:
                return names, any(line.startswith("kpt_shape:") for line in text.splitlines())
    return None, False


def read_yaml_names(text: str) -> tuple[str, ...]:
    """Read the list or the table `names` of a YOLO file; of YAML no more than its three usual forms.

    Args:
        text: of the file.

    Returns:
        The names, a number where one has none; nothing where there is no such list.

    Raises:
        ValueError: the number of a name is none.
    """

    def plain(word: str) -> str:
        word = word.strip()
        return (
            _unescaped(word[1:-1])
            if word[:1] == word[-1:] == '"' and len(word) > 1
            else word.strip("'").strip()
        )

    lines = [_COMMENT.split(line)[0].rstrip() for line in text.splitlines()]
    start = next((at for at, line in enumerate(lines) if line.startswith("names:")), None)
    if start is None:
        return ()
    names: list[tuple[int, str]] = []
    first = lines[start].removeprefix("names:").strip()
    if first:
        at, inside = 1, " ".join([first, *lines[start + 1 :]])
        while (found := _ITEM.match(inside, at)) and found.end() > at:
            double, single, bare = found.group("double", "single", "plain")
            word = (
                _unescaped(double) if double is not None else single if single is not None else bare
            ).strip()
            if word or found["key"]:
                names.append((len(names) if found["key"] is None else int(found["key"]), word))
            at = found.end()
    else:
        for line in lines[start + 1 :]:
            if not line.strip():
                continue
            if line.strip().startswith("- "):
                names.append((len(names), plain(line.strip()[2:])))
            elif line.startswith((" ", "\t")) and ":" in line:
                word, _, name = line.strip().partition(":")
                names.append((int(word), plain(name)))
            else:
                break
    if any(not 0 <= key < MOST for key, _ in names):
        raise ValueError
    own = dict(names)
    return tuple(own.get(at) or str(at) for at in range(1 + max(own, default=-1)))


def _unescaped(word: str) -> str:
    """Read what stands between double quotes, where letters may be written by their numbers."""
    try:
        return str(json.loads(f'"{word}"', strict=False)).strip()
    except ValueError:  # a backslash of another kind
        return word.strip()
