"""Training crops of images, with their masks or boxes: resized, moved and turned together, colours changed.

Every crop is a function of (seed, step, place in the batch), so that a resumed training sees the same.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import rng
from ..core.threads import map_in_order
from ..data.batch import Batch
from ..data.pixel_labels import IGNORED

SCALE = (0.75, 1.33)  # of a crop's content
TILT = 0.2  # radians, either way, where boxes need not stay tight
CHANNEL, CONTRAST, BRIGHTNESS = 0.1, 0.1, 0.05  # greatest changes of colours
FILL = 0.5  # grey beyond the image's border
NUMBERS = 12  # uniform numbers that a crop needs
SEEN, LEAST = 0.4, 2.0  # of a box that the crop's border cuts: least share of its area, and side in pixels


@dataclass(frozen=True)
class Crop:
    """Where a crop lies: its place q, in pixels from its middle, shows the image's `matrix @ q + middle`.

    Attributes:
        matrix: (2, 2), x before y.
        middle: (2,), x and y in pixels of the image.
        shape: height and width of the crop.
        colours: (5,) changes from -1 to 1 of three channels, contrast and brightness.
    """

    matrix: npt.NDArray[np.float64]
    middle: npt.NDArray[np.float64]
    shape: tuple[int, int]
    colours: npt.NDArray[np.float32]

    def image(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Cut it out of (h, w, 3) uint8: (3, tall, wide) in [0, 1]."""
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        x = F.grid_sample(x - FILL, self._grid(pixels.shape[:2]), align_corners=False)[0] + FILL
        change = torch.from_numpy(self.colours)
        x = x * (1 + CHANNEL * change[:3, None, None])
        x = (x - x.mean()) * (1 + CONTRAST * change[3]) + x.mean() + BRIGHTNESS * change[4]
        return x.clamp(0, 1)

    def mask(self, mask: npt.NDArray[np.uint8]) -> Tensor:
        """Cut it out of (h, w) class numbers: (tall, wide) int64, `IGNORED` beyond the border."""
        y = torch.from_numpy(mask.astype(np.float32) + 1)[None, None]  # 0 beyond the border
        y = F.grid_sample(y, self._grid(mask.shape), mode="nearest", align_corners=False)[0, 0].long()
        return torch.where(y == 0, IGNORED, y - 1)

    def boxes(self, boxes: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Move boxes; the crop must not be tilted.

        Args:
            boxes: (k, 4), left, top, right, bottom in pixels of the image.

        Returns:
            (k, 4) in pixels of the crop, clipped to it; and (k,) whether enough of a box is left.
        """
        tall, wide = self.shape
        corners = boxes.reshape(-1, 2, 2).astype(np.float64) - self.middle
        moved = corners @ np.linalg.inv(self.matrix).T + (wide / 2, tall / 2)
        low, high = moved.min(1), moved.max(1)
        kept_low, kept_high = np.maximum(low, 0), np.minimum(high, (wide, tall))
        sides = np.maximum(kept_high - kept_low, 0)
        share = sides.prod(1) / np.maximum((high - low).prod(1), 1e-9)
        good = (share >= SEEN) & (sides >= LEAST).all(1)
        return np.concatenate([kept_low, kept_high], 1).astype(np.float32), good

    def _grid(self, shape: tuple[int, ...]) -> Tensor:
        """Give the crop's places in the image, from -1 to 1, as `grid_sample` takes them."""
        tall, wide = self.shape
        half = np.array([shape[1] / 2, shape[0] / 2])
        theta = np.concatenate(
            [
                self.matrix * (wide / 2, tall / 2) / half[:, None],
                ((self.middle - half) / half)[:, None],
            ],
            axis=1,
        )
        at = torch.from_numpy(theta.astype(np.float32))[None]
        return F.affine_grid(at, [1, 1, tall, wide], align_corners=False)


def draw(
    u: npt.NDArray[np.float32],
    image: tuple[int, int],
    shape: tuple[int, int],
    *,
    turns: bool,
    tilt: float = 0.0,
    fit: float | None = None,
    at: npt.NDArray[np.float32] | None = None,
) -> Crop:
    """Draw a crop.

    Args:
        u: (12,) uniform numbers.
        image: height and width of the image.
        shape: height and width of the crop.
        turns: whether quarter turns and upside down are as likely as upright.
        tilt: radians, either way.
        fit: pixels of the image for one of the crop, at scale 1; None for a crop as large as fits in it.
        at: (4,) a box in pixels of the image whose middle the crop shows; None for anywhere.

    Returns:
        The crop.
    """
    scale = SCALE[0] * (SCALE[1] / SCALE[0]) ** float(u[0])
    quarters = int(4 * u[2]) if turns else 0
    turn = tilt * (2 * float(u[1]) - 1) + np.pi / 2 * quarters
    reach = shape[::-1] if quarters % 2 else shape  # of the crop, down and across the image
    fit = (fit or min(image[0] / reach[0], image[1] / reach[1])) / scale  # pixels of the image for one of it
    cos, sin, flip = np.cos(turn) * fit, np.sin(turn) * fit, -1.0 if u[3] < 0.5 else 1.0
    middle = []
    for side, (length, own, number) in enumerate(zip(image[::-1], reach[::-1], u[4:6], strict=True)):
        half = own * fit / 2
        room = max(0.0, length / 2 - half) + 0.1 * half
        if at is None:
            middle.append(length / 2 + room * (2 * float(number) - 1))
        else:  # the box anywhere in the crop, which stays as near to the image as elsewhere
            wanted = float(at[side] + at[side + 2]) / 2 + half * (2 * float(number) - 1)
            middle.append(min(max(wanted, length / 2 - room), length / 2 + room))
    matrix = np.array([[flip * cos, -sin], [flip * sin, cos]])
    return Crop(matrix, np.array(middle), shape, (2 * u[6:11] - 1).astype(np.float32))


def chosen(u: float, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Choose one of (k, 4) boxes for half of the numbers in [0, 1); none for the others, or without boxes."""
    at = int(2 * u * len(boxes))
    return boxes[at] if at < len(boxes) else None


class CropFeed:
    """An endless iterator of batches: `views` holds what `one` gives for each image, in stacks."""

    def __init__(
        self,
        images: Any,
        one: Callable[[int, npt.NDArray[np.uint8], npt.NDArray[np.float32]], tuple[Tensor, ...]],
        *,
        batch_size: int,
        seed: int,
        start: int,
        workers: int,
    ) -> None:
        """Say what to prepare.

        Args:
            images: n decoded images, with `gather`.
            one: from a row, its pixels and `NUMBERS` uniform numbers to tensors, the same shapes for all.
            batch_size: images a step.
            seed: of the training.
            start: the first step.
            workers: threads.
        """
        self.images, self.one, self.batch_size = images, one, batch_size
        self.seed, self.start, self.workers, self.waited = seed, start, workers, 0.0
        self._made: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Iterator[Batch]:
        self._made = map_in_order(
            self.make, itertools.count(self.start), threads=self.workers, ahead=self.workers + 1
        )
        with contextlib.closing(self._made) as made:
            while True:
                began = time.perf_counter()
                batch = next(made)
                self.waited += time.perf_counter() - began
                yield batch

    def close(self) -> None:
        """Stop preparing."""
        if self._made is not None:
            self._made.close()

    def make(self, step: int) -> Batch:
        """Make the batch of a step."""
        rows = shuffled(len(self.images), self.batch_size, self.seed, step)
        draws = rng.uniform(rng.fold(self.seed, "crop", step), np.arange(len(rows)), NUMBERS)
        block = self.images.gather(rows)
        made = [self.one(int(row), block.image(at), draws[at]) for at, row in enumerate(rows)]
        views = [torch.stack(part) for part in zip(*made, strict=True)]
        return Batch(views, torch.from_numpy(rows), key=rng.fold(self.seed, "step", step))


def shuffled(images: int, batch_size: int, seed: int, step: int) -> npt.NDArray[np.int64]:
    """Choose the images of a step: a fresh order every epoch, one after another, so that none is left out.

    Args:
        images: how many there are, fewer than a batch too.
        batch_size: images a step.
        seed: of the training.
        step: counted from 0.

    Returns:
        (batch_size,) row numbers.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: rng.permutation(rng.fold(seed, "shuffle", epoch), images)
        for epoch in {place // images for place in places}
    }
    return np.array([orders[place // images][place % images] for place in places], np.int64)
