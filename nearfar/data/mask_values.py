"""Reads the values of masks in image files: grey, numbers of a palette, 16 bits, or colours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core.errors import NearfarError
from ..core.threads import map_in_order

SINGLE = ("1", "L", "LA", "La", "P", "PA")  # modes of a single channel of 8 bits or less, beside transparency
MANY_BITS = ("I", "F")  # how the modes of more bits begin
HIGHEST = 65535  # value of a mask of one channel, as a PNG can hold it


def read_values(path: Path | IO[bytes], colours: bool = False) -> npt.NDArray[np.int64]:
    """Read a mask's values: grey, the numbers of a palette, 16 bits; colours as one number.

    Args:
        path: the file, or an open one.
        colours: whether grey and the entries of a palette are colours too, as beside masks that have some:
            the white of a mask without any other colour is the white of the others.

    Returns:
        (height, width) int64; without `colours`, grey saved as a colour image gives grey.

    Raises:
        NearfarError: it cannot be read, or holds other values than whole numbers of 16 bits.
    """
    pixels = _pixels(path, colours)
    if pixels.ndim == 2:
        if pixels.itemsize > 2:  # of up to 16 bits all values are such
            odd = pixels[(pixels < 0) | (pixels > HIGHEST) | (pixels % 1 != 0)]  # of NaN the last
            if len(odd):
                raise NearfarError(
                    f"the mask {path} has the value {odd[0]:g}; save masks with whole numbers from 0 to "
                    f"{HIGHEST}."
                )
        return pixels.astype(np.int64)
    red, green, blue = (pixels[:, :, at].astype(np.int64) for at in range(3))
    return red * 65536 + green * 256 + blue if colours or _has_colours(pixels) else red


def any_colours(files: Sequence[Path], workers: int) -> bool:
    """Tell whether one of several masks has a colour that is no grey.

    Args:
        files: the masks; they are read until one has.
        workers: threads.

    Raises:
        NearfarError: one cannot be read.
    """

    def has(path: Path) -> bool:
        return not _is_of((*SINGLE, *MANY_BITS), path) and _has_colours(_pixels(path, False))

    with closing(map_in_order(has, files, threads=workers, ahead=4 * workers)) as found:
        return any(found)


def has_palette(path: Path) -> bool:
    """Tell whether a mask's values are the numbers of a palette."""
    return _is_of(("P",), path)


def _is_of(modes: Sequence[str], path: Path) -> bool:
    """Tell whether an image is of a mode, or of one that begins so with many bits; False if not readable."""
    try:
        with Image.open(path) as image:
            return image.mode in modes or image.mode.partition(";")[0] in modes
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # which is said when it is read


def _has_colours(pixels: npt.NDArray[Any]) -> bool:
    return pixels.ndim == 3 and bool((pixels != pixels[:, :, :1]).any())


def _pixels(path: Path | IO[bytes], colours: bool) -> npt.NDArray[Any]:
    """Read a mask as it is saved: (height, width), or (height, width, 3) of colours."""
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened
            if opened.format == "JPEG":
                raise NearfarError(f"the mask {path} is a JPEG, which blurs its values; save masks as PNG.")
            if colours and image.mode in SINGLE:
                image = image.convert("RGB")
            if image.mode in ("LA", "La"):
                image = image.convert("L")
            if image.mode == "PA":
                image = image.getchannel(0)
            if image.mode in ("RGBA", "RGBX", "CMYK", "YCbCr"):
                image = image.convert("RGB")
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NearfarError(f"the mask {path} cannot be read ({error}); save it as PNG.") from None
