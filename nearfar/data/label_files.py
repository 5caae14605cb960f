"""Joins images with the files of their labels, by name and by size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..core.errors import NearfarError
from ..core.text import counted

SHAPES = 0.02  # by which share the proportions of labels may differ from their image's
Shape = tuple[int, int]
PLAIN, CROWD, DIFFICULT = 0, 1, 2


class Object(NamedTuple):
    """An object as a label file has it: its corners in pixels, and its score where one is said."""

    name: str
    left: float
    top: float
    right: float
    bottom: float
    kind: int = PLAIN
    score: float = math.nan


def joined(images: Mapping[str, Sequence[str]], files: Mapping[str, Path]) -> dict[str, Path]:
    """Find each image's file of labels.

    Args:
        images: path to the names, without endings, under which its file may be listed, the surest first; the
            last part of the first one is the bare name.
        files: name to file; a name has its folders, with forward slashes, and no ending.

    Returns:
        Image to file. An image without a file is missing.

    Raises:
        NearfarError: only the bare name joins some, and it could mean several files or several images.
    """
    found = {
        image: next(files[name] for name in names if name in files)
        for image, names in images.items()
        if any(name in files for name in names)
    }
    taken = {*found.values()}
    free: defaultdict[str, list[str]] = defaultdict(list)
    for name, file in files.items():
        if file not in taken:
            free[name.rpartition("/")[2]].append(name)
    alone: defaultdict[str, list[str]] = defaultdict(list)
    for image, names in images.items():
        if image not in found and (bare := names[0].rpartition("/")[2]) in free:
            alone[bare].append(image)
    for bare, alike in alone.items():
        places = sorted({images[image][0] for image in alike})
        if len(places) > 1 or len(free[bare]) > 1:
            several = len(free[bare]) > 1
            first, second = ([str(files[name]) for name in free[bare]] if several else alike)[:2]
            raise NearfarError(
                f"{alike[0]} could have the labels of {first} or of {second}; name the folder of its own "
                "with --labels, or give both trees the same folders."
                if several
                else f"{files[free[bare][0]]} could be the labels of {first} or of {second}; put labels into "
                "folders like those of the images."
            )
        found |= dict.fromkeys(alike, files[free[bare][0]])
    return found


class OtherSize(Exception):
    """A label file says another size of its image than the image has, height and width."""


@dataclass
class Odd:
    """Images that are left out, since their boxes are those of an image of another shape."""

    said: list[str] = field(default_factory=list)

    def add(self, path: str, file: Path | None, stated: OtherSize, shape: Shape) -> None:
        """Add one.

        Args:
            path: of the image.
            file: of its labels.
            stated: what `scale` raised.
            shape: of the image.
        """
        height, width = stated.args
        where = "" if file is None else file.name
        self.said.append(f"{path} has {shape[1]} x {shape[0]} px, and {width} x {height} in {where}")

    def notes(self, kept: Sequence[str]) -> list[str]:
        """Say how many they are.

        Args:
            kept: paths of the other images.

        Raises:
            NearfarError: there are no others.
        """
        if not self.said:
            return []
        if not kept:
            raise NearfarError(
                f"the labels are those of images of other shapes: {self.said[0]}, upright; give the images "
                "that were labelled, or mend the sizes."
            )
        what = counted(len(self.said), "image is")
        return [f"{what} left out, labelled in another shape: {self.said[0]}, upright."]


def scale(stated: Shape, shape: Shape) -> tuple[float, float]:
    """Say by what boxes are multiplied, down and across, where the labelled image had another size.

    Args:
        stated: height and width, as the labels say them; 0 where they do not.
        shape: of the image, 0 where it cannot be read.

    Raises:
        OtherSize: it had another shape too, so that nothing says where its boxes are.
    """
    if min(*stated, *shape) <= 0 or stated == shape:
        return 1.0, 1.0
    if not same_shape(stated, shape):
        raise OtherSize(*stated)
    return shape[0] / stated[0], shape[1] / stated[1]


def same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Tell whether two sizes, height and width, have the same proportions, but for rounding to pixels."""
    # A pixel more or less changes the proportions of small images most.
    ratio = one[0] * other[1] / (one[1] * other[0])
    return abs(ratio - 1) <= SHAPES + 1 / min(*one, *other)
