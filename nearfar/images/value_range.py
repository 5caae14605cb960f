"""Values of more than 8 bits: which range of them a collection uses, and how that range becomes 0 to 255.

A file of 16 bits may hold 10, 12 or 14 bits, and a float file any scale. One range is found for a whole
collection, so that its images keep their relative brightness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import BadImage

Range = tuple[float, float]
Values = npt.NDArray[Any]

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners deliver
NODATA = (-9999.0, -99999.0, -32767.0, -32768.0)  # what signed and float rasters usually mark gaps with
HUGE = 1e30  # floats beyond it mark gaps too
ROBUST = (0.1, 99.9)  # percentiles that stand for the least and the greatest value
_POINTS = 1 << 14  # values kept of one image

# TIFF tags
_PHOTOMETRIC = 262
_BITS, _MAX_SAMPLE, _SAMPLE_FORMAT, _S_MIN, _S_MAX, _GDAL_NODATA = 258, 281, 339, 340, 341, 42113


def is_deep(image: Any) -> bool:
    """Tell whether a Pillow image has more than 8 bits a channel, as Pillow reads it."""
    return bool(image.mode.startswith("I") or image.mode == "F")


def is_negative(image: Any) -> bool:
    """Tell whether the least value of a TIFF of more than 8 bits is white, as radiographs often have it."""
    return number_of(getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)) == 0.0


def number_of(value: Any) -> float | None:
    """Read a tag's value as a number, or give None."""
    while isinstance(value, (tuple, list)):
        value = value[0] if value else None
    try:
        return float(str(value).strip("\0 ")) if value is not None else None
    except ValueError:
        return None


def nodata_of(image: Any) -> float | None:
    """Give the value by which a TIFF says that a pixel was not measured (GDAL_NODATA), or None."""
    return number_of(getattr(image, "tag_v2", {}).get(_GDAL_NODATA))


def raw(image: Any) -> Values:
    """Give the values (H, W) of a loaded image of more than 8 bits, unsigned where its file says so."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits, form = number_of(tags.get(_BITS)), number_of(tags.get(_SAMPLE_FORMAT))
    if image.mode == "I" and bits == 32 and form in (None, 1.0):
        return values.view(np.uint32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def invalid(values: Values, nodata: float | None) -> npt.NDArray[np.bool_]:
    """Find what was not measured.

    Args:
        values: of any shape and type.
        nodata: the value that the file names, or None.

    Returns:
        A mask of the same shape: the named value, NaN, infinity, and in signed values the usual marks.
    """
    bad = np.zeros(values.shape, np.bool_)
    if values.dtype.kind == "f":
        huge = min(HUGE, float(np.finfo(values.dtype).max))
        bad |= ~(np.abs(values) <= huge)  # NaN is not below it either
    if nodata is not None:
        bad |= values == np.asarray(nodata).astype(values.dtype if values.dtype.kind == "f" else np.float64)
    if values.dtype.kind in "if":
        bad |= np.isin(values, NODATA)
    return bad


@dataclass(frozen=True)
class Seen:
    """What was seen of one image's values.

    `points`: up to 16,384 of the valid ones, float64; `low`, `high`: the extremes of all valid ones;
    `whole`: whether all are integers; `bits`: how many the file says that it uses, 0 where it does not;
    `said`: the range that a float file names, or None; `gaps`: share of the values that were not measured.
    """

    points: npt.NDArray[np.float64]
    low: float
    high: float
    whole: bool
    bits: int = 0
    said: Range | None = None
    gaps: float = 0.0


def see(values: Values, *, nodata: float | None = None, bits: int = 0, said: Range | None = None) -> Seen:
    """Look at the values of one image.

    Args:
        values: of any shape; of four channels, the last is taken for transparency and not looked at.
        nodata: as in `invalid`.
        bits, said: as in `Seen`.
    """
    if values.ndim == 3 and values.shape[2] == 4:
        values = values[:, :, :3]
    if values.dtype.kind == "b":
        return Seen(np.array([0.0, 1.0]), 0.0, 1.0, True)
    bad = invalid(values, nodata)
    good = values[~bad]
    if not good.size:
        return Seen(np.empty(0), 0.0, 0.0, True, gaps=1.0)
    low, high = float(good.min()), float(good.max())
    if values.dtype == np.uint16 and high == 65535:
        rest = good[good < 65535]
        if rest.size and rest.max() < 1 << 14:  # all else fits 14 bits: a mark, or saturation
            high = float(rest.max())
    step = -(-good.size // _POINTS)
    points = good[::step].astype(np.float64)
    whole = values.dtype.kind in "iu" or bool((good == np.rint(good)).all())
    return Seen(points, low, high, whole, bits, said, float(bad.mean()))


def see_image(image: Any, significant: int = 0, values: Values | None = None) -> Seen:
    """Look at a loaded Pillow image of more than 8 bits, and at what its tags say.

    Args:
        image: for which `is_deep` holds, or any one with `values`.
        significant: bits that a PNG calls significant; 0 where it says nothing.
        values: those of a colour image, by `deep_colour.halves`; None: the image's own.
    """
    tags, values = getattr(image, "tag_v2", {}), raw(image) if values is None else values
    stored, most = number_of(tags.get(_BITS)), number_of(tags.get(_MAX_SAMPLE))
    bits = int(stored) if stored is not None and stored not in (16, 32, 64) else 0
    if most is not None and 0 < most < 65535:
        bits = max(bits, int(most).bit_length())
    least, greatest = number_of(tags.get(_S_MIN)), number_of(tags.get(_S_MAX))
    said = None
    if image.mode == "F" and least is not None and greatest is not None and least < greatest:
        said = (least, greatest)
    seen = see(values, nodata=nodata_of(image), bits=bits, said=said)
    if significant and seen.high < 1 << significant:  # else the values were stretched over all bits
        return Seen(seen.points, seen.low, seen.high, seen.whole, max(bits, significant), said, seen.gaps)
    return seen


def find(seen: Sequence[Seen], percentiles: Sequence[float] | None = None) -> Range:
    """Find one range for several images.

    Whole numbers from 0 to 65535 reach from 0 to the end of the next depth of 8, 10, 12, 14 or 16 bits.
    Floats within 0 to 1 reach from 0 to 1. All else reaches from its 0.1 to its 99.9 percentile, or as
    far as every file says.

    Args:
        seen: at least one.
        percentiles: take these two percentiles, 0 to 100, of all values instead.

    Returns:
        The value that becomes black and the greater one that becomes white.
    """
    filled = [item for item in seen if item.points.size]
    if not filled:
        return 0.0, 1.0
    points = np.concatenate([item.points for item in filled])
    least, most = min(item.low for item in filled), max(item.high for item in filled)
    said = [item.said for item in filled if item.said is not None]
    if percentiles is not None:
        low, high = (float(value) for value in np.percentile(points, percentiles))
    elif all(item.whole for item in filled) and least >= 0 and most <= 65535:
        needed = max(int(most).bit_length(), *(item.bits for item in filled), 0)
        low, high = 0.0, float((1 << next((depth for depth in DEPTHS if depth >= needed), 16)) - 1)
        if most <= 1 and needed <= 1:  # a mask
            high = 1.0
    elif len(said) == len(filled):
        low, high = min(pair[0] for pair in said), max(pair[1] for pair in said)
    else:
        low, high = (float(value) for value in np.percentile(points, ROBUST))
        if low >= -0.01 and 0 < high <= 1.01:
            low, high = 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def to_8bit(values: Values, value_range: Range | None, nodata: float | None = None) -> npt.NDArray[np.uint8]:
    """Map values to 8 bits; 8-bit ones are returned as they are.

    Args:
        values: of any shape and type; bool becomes 0 and 255.
        value_range: what becomes 0 and what becomes 255, as `find` gives it, or the other way round; None: as
            these values have it.
        nodata: as in `invalid`; what was not measured becomes 0.

    Returns:
        The same shape; values outside the range are clipped.

    Raises:
        BadImage: no value was measured.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    low, high = value_range or find([see(values, nodata=nodata)])
    bad = invalid(values, nodata)
    if bad.size and bad.all():
        raise BadImage("no value in it was measured: all are NaN, infinite or the mark for it")
    scaled: Values = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    scaled[bad] = low
    np.subtract(scaled, low, out=scaled)
    np.multiply(scaled, 255 / (high - low), out=scaled)
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)


def to_rgb_array(values: Values, value_range: Range | None) -> npt.NDArray[np.uint8]:
    """Turn an array image into 8-bit RGB, laid over white where it is transparent.

    Args:
        values: (H, W, 3) or (H, W, 4) of any type.
        value_range: of the colours, as in `to_8bit`; transparency has its own.

    Returns:
        (H, W, 3) uint8.
    """
    if values.shape[2] < 4:
        return to_8bit(values, value_range)
    alpha = values[:, :, 3:]
    colours = to_8bit(values[:, :, :3], value_range or find([see(values)]))
    # Colours may reach to 4,000 where transparency reaches to 1.
    return over_white(np.concatenate([colours, to_8bit(alpha, find([see(alpha)]))], axis=2))


def over_white(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Lay (H, W, 4) uint8 over white: (H, W, 3)."""
    alpha = image[:, :, 3:].astype(np.uint16)
    laid: npt.NDArray[np.uint8] = ((image[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(
        np.uint8
    )
    return laid
