"""Samples the parameters of each view: its crop, flip, colours, blur. It computes no pixels.

A draw is a function of a key and of the image's number, never of what was drawn before, so a view can
be replayed, shown, split over processes and tested. `kernels.apply` turns a draw into pixels.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..core import rng
from ..core.config import setting
from .decode import FILTERS, Reducing
from .value_range import Range
from .view_settings import Views, check_crops, is_small

RATIO = (3 / 4, 4 / 3)  # width over height of a random crop
TRIES = 10  # crops tried before the centre is taken
SIGMA = (0.1, 2.0)  # blur, in pixels of the view

# Every quantity has its own column of uniform numbers, so that a new one moves none of the others.
# The second to tenth tries of a crop come last, because few images need them.
AREA, ASPECT, TOP, LEFT, FLIP, JITTER, ORDER, FACTORS, GREY, BLUR, BLUR_SIGMA, SOLARISE = (
    0, 1, 2, 3, 4, 5, 6, slice(7, 11), 11, 12, 13, 14,
)  # fmt: skip
COLUMNS = 15
ORDERS = np.array(list(itertools.permutations(range(4))), np.uint8)  # (24, 4)


@dataclass(frozen=True)
class AugmentationParams:
    """The parameters of n views, one row a view.

    Attributes:
        box: (n, 4) int32, the crop's top, left, height and width in pixels of the source.
        flip: (n,) bool, whether left and right are exchanged.
        jitter: (n,) bool, whether the colours change.
        order: (n, 4) uint8, in which order 0 brightness, 1 contrast, 2 saturation, 3 hue are changed.
        factors: (n, 4) float32, three factors of at least 0, and a turn of the hue from -0.5 to 0.5.
        grey: (n,) bool, whether the view loses its colour.
        sigma: (n,) float32, width of the Gaussian blur in pixels of the view; 0 is no blur.
        solarise: (n,) bool, whether values of one half and above are inverted.
    """

    box: npt.NDArray[np.int32]
    flip: npt.NDArray[np.bool_]
    jitter: npt.NDArray[np.bool_]
    order: npt.NDArray[np.uint8]
    factors: npt.NDArray[np.float32]
    grayscale: npt.NDArray[np.bool_]
    sigma: npt.NDArray[np.float32]
    solarize: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Count the views."""
        return len(self.box)

    def take(self, rows: Any) -> AugmentationParams:
        """Keep some of the views.

        Args:
            rows: a slice, row numbers (m,), or a mask (n,).

        Returns:
            The draws of those rows.
        """
        return AugmentationParams(
            **{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)}
        )

    def mixed(self, other: AugmentationParams, rows: Any) -> AugmentationParams:
        """Take some rows from another's draws of the same images.

        Args:
            other: of as many views.
            rows: a slice or row numbers, of those to take from it.

        Returns:
            The draws, in the same order.
        """
        parts = {}
        for field in dataclasses.fields(self):
            parts[field.name] = getattr(self, field.name).copy()
            parts[field.name][rows] = getattr(other, field.name)[rows]
        return AugmentationParams(**parts)


@dataclass(frozen=True)
class View:
    """One view of an image: how it is made, and its side as a share of the run's.

    With `alternate`, every fourth image of a batch is changed by those settings instead; the batch says which
    in `alternates`.
    """

    recipe: Views
    share: float = 1.0
    alternate: Views | None = None

    def side(self, size: int) -> int:
        """Tell the side of this view, in whole pixels, where a full view's is `size`."""
        return max(1, round(size * self.share))


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an encoder's input when nothing is random."""

    modality: ClassVar[str] = "images"

    size: int = setting(224, "side of the input in pixels", low=1)
    crop: float = setting(
        0.875,
        "share of the short side that the centred square keeps; of both sides, where it is squashed",
        low=0.01,
        high=1.0,
        source="SimCLR, appendix B.5; 1 for CIFAR, B.9",
    )
    interpolation: str = setting(
        "bicubic", "how the square is resized, always antialiased", choices=("bilinear", "bicubic")
    )

    short_side: int | None = setting(
        None,
        "short side to which larger images are reduced first; 8/7 of size if not given",
        low=1,
        high=1 << 20,
    )
    reduction: str = setting(
        "bicubic", "how larger images are reduced first, antialiased", choices=tuple(FILTERS)
    )
    fit: str = setting(
        "center",
        "what becomes the square: the centre of the image, or all of it, squashed",
        choices=("center", "squash"),
    )
    low: float | None = setting(None, "value that becomes 0 in images of more than 8 bits")
    high: float | None = setting(None, "value that becomes 255 in images of more than 8 bits")

    @classmethod
    def of(
        cls, size: int, interpolation: str = "bicubic", value_range: Sequence[float] | None = None
    ) -> Preprocess:
        """Choose the crop for a size: the whole short side of small images, 0.875 of it for others.

        Args:
            size: side of the input in pixels.
            interpolation: "bilinear" or "bicubic".
            value_range: `low` and `high`, or None.

        Returns:
            The settings.

        Source:
            SimCLR, appendices B.5 (ImageNet) and B.9 (CIFAR-10, no crop).
        """
        crop = 1.0 if is_small(size) else cls.crop
        low, high = value_range or (None, None)
        return cls(size=size, crop=crop, interpolation=interpolation, low=low, high=high)

    @property
    def value_range(self) -> Range | None:
        """The values that become 0 and 255 in images of more than 8 bits; None: as a collection has it."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def decode_side(self) -> int:
        """Short side, in pixels, to which larger images are reduced when they are decoded.

        It is `short_side` where that is given, else 8/7 of `size`: a centred crop of 0.875 of it is then at
        least `size` pixels wide. Training, evaluation, embedding
        and stores all decode at this side, so that one image always gives one vector.
        """
        return self.short_side or -(-self.size * 8 // 7)

    @property
    def reducing(self) -> Reducing:
        """How larger images are reduced when they are decoded."""
        return Reducing(self.reduction, self.fit == "squash")

    @property
    def cut(self) -> str:
        """Say in a sentence what of an image is kept."""
        if self.fit == "squash":
            return (
                f"Cut out the centre of {self.crop:g} of each side." if self.crop < 1 else "Keep all of it."
            )
        return f"Cut out the centred square of {self.crop:g} of the short side."

    @property
    def reduced(self) -> str:
        """Say in a sentence how a larger image is reduced first."""
        part = "a side" if self.fit == "squash" else "its short side"
        what = "that side alone" if self.fit == "squash" else "it"
        return (
            f"If {part} is over {self.decode_side} px, reduce {what} to that, antialiased {self.reduction}, "
            "and round to whole values from 0 to 255."
        )

    @property
    def steps(self) -> list[str]:
        """Sentences that say how an image becomes numbers from 0 to 1, for who has none of our code."""
        return [
            self.reduced,
            self.cut,
            f"Resize it to {self.size} x {self.size} px, antialiased {self.interpolation}; do not round, and "
            "cut off what is below 0 or above 255.",
            "Divide by 255.",
        ]


def blur_radius(size: int) -> int:
    """Say how far the blur reaches on each side: its kernel is a tenth of the view, made odd.

    Args:
        size: side of the view in pixels.

    Returns:
        The radius in pixels: 11 at 224 px, 1 at 32 px, 0 below 20 px (no blur).

    Source:
        SimCLR, appendix A.
    """
    return size // 20


def draw(
    views: Views, key: int, ids: npt.ArrayLike, heights: npt.ArrayLike, widths: npt.ArrayLike, size: int
) -> AugmentationParams:
    """Draw one view of each image.

    Args:
        views: the settings: ranges and chances.
        key: from `rng.fold`, one for each epoch and view.
        ids: (n,) integers that name the images; a row depends on its own alone.
        heights, widths: (n,) sides of the images in pixels, at least 1.
        size: side of the view in pixels.

    Returns:
        The parameters of n views.

    Raises:
        NearfarError: the least area of a crop is above the greatest.

    Source:
        Random resized crop: Szegedy et al. 2015, section 6, as torchvision has it. The rest: SimCLR,
        appendix A; solarisation: BYOL, appendix B.
    """
    check_crops(views)
    names = np.asarray(ids)
    high, wide = np.asarray(heights, np.int64), np.asarray(widths, np.int64)
    u = rng.uniform(key, names, COLUMNS)
    reach = np.array([views.brightness, views.contrast, views.saturation, views.hue], np.float32)
    middle = np.array([1, 1, 1, 0], np.float32)
    blurred = u[:, BLUR] < (views.blur if blur_radius(size) else 0.0)
    sigma = np.float32(SIGMA[0]) + u[:, BLUR_SIGMA] * np.float32(SIGMA[1] - SIGMA[0])
    return AugmentationParams(
        box=_boxes(views, key, names, high, wide, u),
        flip=u[:, FLIP] < views.flip,
        jitter=u[:, JITTER] < views.jitter,
        order=ORDERS[(u[:, ORDER] * np.float32(24)).astype(np.int64)],
        factors=middle + (u[:, FACTORS] * np.float32(2) - np.float32(1)) * reach,
        grayscale=u[:, GREY] < views.grayscale,
        sigma=np.where(blurred, sigma, np.float32(0)),
        solarize=u[:, SOLARISE] < views.solarize,
    )


def _boxes(
    views: Views,
    key: int,
    ids: npt.NDArray[Any],
    high: npt.NDArray[np.int64],
    wide: npt.NDArray[np.int64],
    u: npt.NDArray[np.float32],
) -> npt.NDArray[np.int32]:
    """Draw the crops, (n, 4) int32; float64 throughout, so that every machine rounds alike."""
    area = (high * wide).astype(np.float64)
    h, w = _sides(views, area, u[:, AREA], u[:, ASPECT])
    left = np.flatnonzero((w < 1) | (w > wide) | (h < 1) | (h > high))
    if left.size:
        more = rng.uniform(key, ids[left], COLUMNS + 2 * (TRIES - 1))[:, COLUMNS:]
        tried_h, tried_w = _sides(views, area[left, None], more[:, 0::2], more[:, 1::2])
        tall, broad = high[left], wide[left]
        fits = (tried_w >= 1) & (tried_w <= broad[:, None]) & (tried_h >= 1) & (tried_h <= tall[:, None])
        first, rows = fits.argmax(axis=1), np.arange(left.size)
        # When no try fits, the centre is taken, as large as the allowed shapes let it be.
        centre_w = np.minimum(broad, np.rint(tall * RATIO[1]).astype(np.int64))
        centre_h = np.minimum(tall, np.rint(broad / RATIO[0]).astype(np.int64))
        some = fits[rows, first]
        h[left] = np.where(some, tried_h[rows, first], centre_h)
        w[left] = np.where(some, tried_w[rows, first], centre_w)
    box = np.empty((len(h), 4), np.int32)
    box[:, 0] = u[:, TOP] * (high - h + 1)  # int64 makes this float64: below the bound for every u < 1
    box[:, 1] = u[:, LEFT] * (wide - w + 1)
    box[:, 2], box[:, 3] = h, w
    if left.size:
        lost = left[~some]
        box[lost, 0] = (high[lost] - h[lost]) // 2
        box[lost, 1] = (wide[lost] - w[lost]) // 2
    return box


def _sides(
    views: Views,
    area: npt.NDArray[np.float64],
    share: npt.NDArray[np.float32],
    shape: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Turn two uniform numbers into a crop's height and width: area uniform, aspect log-uniform."""
    target = area * (views.crop_min + share.astype(np.float64) * (views.crop_max - views.crop_min))
    # sqrt(target * aspect) and sqrt(target / aspect), with one root and one exponential for both.
    low, high = math.log(RATIO[0]) / 2, math.log(RATIO[1]) / 2
    root, bend = np.sqrt(target), np.exp(low + shape.astype(np.float64) * (high - low))
    return np.rint(root / bend).astype(np.int64), np.rint(root * bend).astype(np.int64)


def centre(preprocess: Preprocess, heights: npt.ArrayLike, widths: npt.ArrayLike) -> AugmentationParams:
    """Take the centred square of each image, or all of it to be squashed, and change nothing else.

    The first is to resize the short side to size / crop and to cut the centre, but for the rounding of the
    square to whole pixels of the source.

    Args:
        preprocess: what to keep.
        heights, widths: (n,) sides of the images in pixels.

    Returns:
        The parameters of n views, without randomness.
    """
    high, wide = np.asarray(heights, np.int64), np.asarray(widths, np.int64)
    n = len(high)
    sides = (high, wide) if preprocess.fit == "squash" else (np.minimum(high, wide),) * 2
    h, w = (np.maximum(1, np.rint(one * preprocess.crop)).astype(np.int64) for one in sides)
    no = np.zeros(n, np.bool_)
    return AugmentationParams(
        box=np.stack([(high - h) // 2, (wide - w) // 2, h, w], axis=1).astype(np.int32),
        flip=no,
        jitter=no,
        order=np.tile(np.arange(4, dtype=np.uint8), (n, 1)),
        factors=np.tile(np.array([1, 1, 1, 0], np.float32), (n, 1)),
        grayscale=no,
        sigma=np.zeros(n, np.float32),
        solarize=no,
    )
