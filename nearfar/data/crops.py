"""Objects as examples of their own: each is cut out of its image, which is decoded once for its neighbours.

What is cut out is the square around the object's box, so that an encoder, which sees the centred square of an
example, sees all of a long object.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage
from ..images import decode
from ..images.files import MAX_PIXELS
from ..images.value_range import Range, Values, to_rgb_array
from .recent import Recent
from .source import Pixels, Source

MARGIN = 0.1  # of a box's longer side, seen on each side of it: an encoder's centred square cuts off less
LEAST = 2.0  # pixels of a box's shorter side
KEPT = 4  # images that stay in memory, decoded
CORNERS = ("x0", "y0", "x1", "y1")
CLASS = "class"

Corners = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """An object that is cut out when it is decoded.

    Attributes:
        pixels: makes (H, W, 3) uint8 of the values that become 0 and 255, as `decode.decode` takes them.
        nbytes: of the pixels in its box.
    """

    pixels: Callable[[Range | None], Pixels]
    nbytes: int


@dataclass(frozen=True)
class Crops(Source):
    """Objects on images, one image's objects next to each other.

    `photos` are the images, `photo` (n,) int64 the row of each object's; `corners` (n, 4) float64 are left,
    top, right and bottom in pixels of the upright image, NaN for the whole of it; `sides` (n, 2) the width
    and height that this image is said to have, 0 where nothing is said. `listed` holds the ids of images of
    which all objects are here, also where there are none.
    """

    photos: Source
    photo: Rows
    corners: Corners
    sides: Rows
    listed: frozenset[str] = frozenset()
    kind: ClassVar[str] = "objects"
    label_column: ClassVar[str] = CLASS

    def __post_init__(self) -> None:
        """Prepare to hold images."""
        object.__setattr__(self, "_contents", Recent(self._content, KEPT))
        object.__setattr__(self, "_pictures", Recent(self._picture, KEPT))

    def _content(self, photo: int) -> tuple[Values | bytes, bytes]:
        from .reading import fetch  # which asks whether a source is of this kind

        data, digest = fetch(self.photos, photo, max_pixels=MAX_PIXELS)
        assert not isinstance(data, Cut)  # nothing is cut out of an object
        return data, digest

    def _picture(self, key: tuple[int, Range | None]) -> Pixels:
        photo, span = key
        contents: Recent[int, tuple[Values | bytes, bytes]] = self._contents  # type: ignore[attr-defined]
        data, _ = contents.get(photo)
        if isinstance(data, bytes):
            return decode.decode(data, max_pixels=MAX_PIXELS, value_range=span)
        return to_rgb_array(data, span)

    def fetch(self, index: int) -> tuple[Cut, bytes]:
        """Fetch an object without decoding it.

        Args:
            index: from 0 to len(self) - 1.

        Returns:
            It, and a digest: the first 16 bytes are those of its image, the rest says which part of it.

        Raises:
            BadImage: its image cannot be fetched.
        """
        contents: Recent[int, tuple[Values | bytes, bytes]] = self._contents  # type: ignore[attr-defined]
        digest = contents.get(int(self.photo[index]))[1]
        corners = self.corners[index]
        if not np.isnan(corners).any():
            where = np.append(corners, MARGIN).astype("<f8").tobytes()
            digest += hashlib.blake2b(where, digest_size=8).digest()
        left, top, right, bottom = np.nan_to_num(corners).tolist()
        area = max(0, round(right - left)) * max(0, round(bottom - top))
        return Cut(lambda span: self.pixels(index, span), 3 * min(area, MAX_PIXELS)), digest

    def pixels(self, index: int, value_range: Range | None = None) -> Pixels:
        """Cut an object out of its image.

        Args:
            index: from 0 to len(self) - 1.
            value_range: as in `decode.decode`.

        Returns:
            (H, W, 3) uint8.

        Raises:
            BadImage: its image cannot be used, or its box has less than `LEAST` pixels of it.
        """
        pictures: Recent[tuple[int, Range | None], Pixels] = self._pictures  # type: ignore[attr-defined]
        image = pictures.get((int(self.photo[index]), value_range))
        height, width = image.shape[:2]
        said = self.sides[index].tolist()
        if all(said) and said != [width, height]:
            raise BadImage(
                f"its box is of an image of {said[0]} x {said[1]} px, and the image has {width} x {height}"
            )
        return cut(image, self.corners[index])

    def read(self, index: int) -> Values:
        """Cut one object out of its image."""
        return self.pixels(index)

    def stamp(self, index: int) -> str:
        """Say what changes with the image, and which part of it is meant."""
        return f"{self.photos.stamp(int(self.photo[index]))} {self.corners[index].tolist()}"

    def lists(self, name: str) -> bool:
        """Tell whether an object of this id would be here if it were still on its image.

        Args:
            name: as `object_id` gives it.
        """
        photo, mark, number = name.rpartition("#")
        return bool(mark) and number.isdecimal() and photo in self.listed


def object_id(photo: str, number: int) -> str:
    """Name an object: by its image's id and its place among the boxes of that image, from 0 on.

    Args:
        photo: the image's id.
        number: the place.
    """
    return f"{photo}#{number}"


def cut(image: Pixels, corners: Corners | Sequence[float]) -> Pixels:
    """Cut the square around a box out of an image; at the image's border it is moved inside.

    Args:
        image: (H, W, 3).
        corners: left, top, right and bottom in pixels; NaN for the whole image.

    Returns:
        (h, w, 3), a square unless the image is narrower than one.

    Raises:
        BadImage: less than `LEAST` pixels of a side of the box lie on the image.
    """
    if any(math.isnan(value) for value in corners):
        return image
    height, width = image.shape[:2]
    left, right = (min(max(float(value), 0.0), width) for value in (corners[0], corners[2]))
    top, bottom = (min(max(float(value), 0.0), height) for value in (corners[1], corners[3]))
    if right - left < LEAST or bottom - top < LEAST:
        told = ", ".join(f"{value:g}" for value in corners)
        raise BadImage(
            f"its box ({told}) has less than {LEAST:g} px on the image, which has {width} x {height}"
        )
    side = (1 + 2 * MARGIN) * max(right - left, bottom - top)
    low, high = _span(left, right, side, width)
    first, last = _span(top, bottom, side, height)
    return np.ascontiguousarray(image[first:last, low:high])


def _span(low: float, high: float, side: float, length: int) -> tuple[int, int]:
    """Give the pixels from which and up to which a side is cut."""
    size = min(length, math.ceil(side))
    begin = min(max(round((low + high - size) / 2), 0), length - size)
    return begin, begin + size
