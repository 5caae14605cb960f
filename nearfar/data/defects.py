"""Reads where the defects of pictures are: masks, boxes in text, and the layout of industrial data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage, NearfarError
from ..images import decode
from ..images.files import MAX_PIXELS, read
from .csv_files import read_text

GOOD = "good"
MASKS = (".png", ".bmp", ".tif", ".tiff", ".jpg")
BLURRED = (".jpg",)  # of these, the ones whose values are not exact
SUFFIXES = ("", "_mask")  # what a mask's name has more than the picture's
SHAPES = 0.02  # by which share the proportions of a mask may differ from its picture's

Regions = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Layout:
    """A folder with `train/good`, `test/good`, `test/<kind>` and masks in `ground_truth/<kind>`."""

    normal: Path
    test: Path
    truth: Path | None


def find_layout(folder: Path) -> Layout | None:
    """Recognise the layout of an industrial data set.

    Args:
        folder: what the user named.

    Returns:
        Its parts; None where it is another folder.
    """
    normal, test, truth = folder / "train" / GOOD, folder / "test", folder / "ground_truth"
    if not (normal.is_dir() and test.is_dir()):
        return None
    return Layout(normal, test, truth if truth.is_dir() else None)


class Truth:
    """Masks or boxes in a folder, by the names of the pictures."""

    def __init__(self, folder: Path) -> None:
        """Name the folder.

        Args:
            folder: with `<id>.png` or `<id>_mask.png`, masks that are 0 where normal, or `<id>.txt`, a line
                `x1 y1 x2 y2 kind` a box, in pixels, the kind not needed; `<id>` is the picture's name in its
                folder without its suffix.

        Raises:
            NearfarError: there is no such folder.
        """
        if not folder.is_dir():
            raise NearfarError(
                f"--truth {folder} is no folder; name one with masks or with text files of boxes."
            )
        self.folder = folder

    def of(self, name: str, shape: tuple[int, int]) -> tuple[Regions, dict[int, str]]:
        """Read the defects of a picture.

        Args:
            name: the picture's, with its folders below the one that was named.
            shape: its height and width in pixels.

        Returns:
            (h, w) int32, 0 where normal, else the number of the defect; and the kinds of those that have one.
            All is 0 where there is no file.

        Raises:
            NearfarError: a file cannot be read, or a mask has other proportions.
        """
        stem = self.folder / Path(name).with_suffix("")
        text = stem.with_name(stem.name + ".txt")
        if text.is_file():
            return _boxes(text, shape)
        for more in SUFFIXES:
            for suffix in MASKS:
                path = stem.with_name(stem.name + more + suffix)
                if path.is_file():
                    return _mask(path, shape), {}
        return np.zeros(shape, np.int32), {}


def _boxes(path: Path, shape: tuple[int, int]) -> tuple[Regions, dict[int, str]]:
    """Read boxes; what of one lies outside of the picture is left out."""
    regions, kinds = np.zeros(shape, np.int32), {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            left, top, right, bottom = (max(0, round(float(word))) for word in words[:4])
        except (ValueError, OverflowError):
            raise NearfarError(f"{path}, line {number}: write a box as x1 y1 x2 y2 kind.") from None
        regions[top:bottom, left:right] = number
        if len(words) > 4:
            kinds[number] = words[4]
    return regions, kinds


def _mask(path: Path, shape: tuple[int, int]) -> Regions:
    """Read a mask and bring it to the picture's size; its connected parts are the defects."""
    try:
        pixels = decode.decode(read(path, max_pixels=MAX_PIXELS), max_pixels=MAX_PIXELS).max(axis=2)
    except BadImage as error:
        raise NearfarError(f"the mask {path} cannot be read ({error}).") from None
    # JPEG leaves traces around a defect, which are no defects.
    mask = pixels > (pixels.max() / 2 if path.suffix.lower() in BLURRED else 0)
    if mask.shape != shape:
        ratio = mask.shape[0] * shape[1] / (mask.shape[1] * shape[0])
        if abs(ratio - 1) > SHAPES:
            raise NearfarError(
                f"the mask {path} is {mask.shape[1]} x {mask.shape[0]}, its picture {shape[1]} x {shape[0]}; "
                "give masks of the same proportions."
            )
        down, across = (
            np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(np.int64)
            for n, m in zip(shape, mask.shape, strict=True)
        )
        mask = mask[down[:, None], across]
    return regions_of(mask)


def regions_of(mask: npt.NDArray[Any]) -> Regions:
    """Number the defects of a mask: what is connected, by corners too, is one.

    Args:
        mask: (h, w); other than 0 is anomalous.

    Returns:
        (h, w), 0 where normal, else the number of the defect.
    """
    from scipy.ndimage import label

    numbered: Regions = label(mask != 0, np.ones((3, 3)))[0].astype(np.int32)
    return numbered
