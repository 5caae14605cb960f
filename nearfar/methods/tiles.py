"""What jigsaw, relative position and PIRL share: tiles of a view, at random places of a grid's cells."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..core import rng
from ..core.errors import NearfarError
from ..core.moments import moments
from .base import Batch

CANDIDATES = 50  # permutations of nine tiles, for each that is wanted, among which the set is chosen,
LEAST_CANDIDATES, MOST_CANDIDATES = 20_000, 50_000  # but so many
LEAST = 4  # px: side of a tile


def tile_side(side: int, grid: int, gap: float) -> int:
    """Tell the side of a tile in pixels.

    Args:
        side: of the view, in pixels.
        grid: cells in a row.
        gap: share of a cell's side that its tile leaves out.

    Returns:
        Whole pixels.

    Raises:
        NearfarError: there is too little left.
    """
    tile = round(side // grid * (1 - gap))
    if tile < LEAST:
        raise NearfarError(f"a tile of {tile} px is too small; lower --grid or --gap, or raise --image-size.")
    return tile


def tiles(batch: Batch, x: Tensor, grid: int, gap: float, name: str = "tiles") -> Tensor:
    """Cut each image into a grid of cells and take a tile at a random place of each cell, standardised.

    Neighbouring tiles have a gap between them, so that lines do not simply continue. Each tile is brought to one
    mean and deviation, so that brightness does not tell its place; they are those of usual images, which the
    encoder is used on afterwards.

    Args:
        batch: whose key and rows name the draws.
        x: (n, 3, side, side), a view of each image.
        grid: cells in a row.
        gap: share of a cell's side that its tile leaves out, 0 to 1.
        name: of the draw, where a method takes tiles several times.

    Returns:
        (n, grid * grid, 3, tile, tile), row by row from the top left.

    Source:
        Noroozi and Favaro 2016, "Unsupervised learning of visual representations by solving jigsaw puzzles",
        section 4.2.
    """
    cell, tile = x.shape[-1] // grid, tile_side(x.shape[-1], grid, gap)
    u = rng.uniform(rng.fold(batch.key, name), batch.rows, 2 * grid * grid)
    places = torch.from_numpy((u * (cell - tile + 1)).astype(np.int64)).to(x.device)
    within = torch.arange(tile, device=x.device)
    number = torch.arange(grid * grid, device=x.device)
    top = places[:, 0::2] + number // grid * cell  # (n, grid * grid)
    left = places[:, 1::2] + number % grid * cell
    rows = (top[:, :, None] + within)[:, :, None, :, None]
    columns = (left[:, :, None] + within)[:, :, None, None, :]
    images = torch.arange(len(x), device=x.device)[:, None, None, None, None]
    channels = torch.arange(3, device=x.device)[:, None, None]
    return standardised(x[images, channels, rows, columns])


def standardised(x: Tensor) -> Tensor:
    """Bring each image to mean 0.5 and deviation 0.25.

    Args:
        x: (..., 3, height, width).

    Returns:
        The same shape.
    """
    mean, variance = moments(x, (-3, -2, -1), keepdim=True)
    return 0.5 + 0.25 * (x - mean) / (variance.sqrt() + 1e-3)


@functools.cache
def permutations(tiles: int, count: int) -> npt.NDArray[np.int64]:
    """Choose orders of tiles that differ from one another in as many places as possible.

    Greedy: each next one is the farthest from the nearest of those before. (The paper's takes the greatest
    mean distance, which leaves pairs that differ in two tiles only.) The orders are the same for every seed of a
    run, so that a run that is resumed has them again, and runs that are compared tell the same orders apart.

    Args:
        tiles: how many there are in an order.
        count: orders wanted; all there are, if they are no more. Of nine tiles up to 46,700, since some candidates
            are drawn twice.

    Returns:
        (count, tiles) int64.

    Source:
        Noroozi and Favaro 2016, section 4.2, algorithm 1, with the least distance in the place of the mean.
    """
    if math.factorial(tiles) <= max(count, 24):
        left = np.array(list(itertools.permutations(range(tiles))))
        if count >= len(left):
            return left
    else:
        candidates = min(max(LEAST_CANDIDATES, CANDIDATES * count), MOST_CANDIDATES)
        draws = rng.uniform(rng.fold(0, "permutations", tiles), np.arange(candidates), tiles)
        left = np.argsort(draws, axis=1).astype(np.int8)
    nearest = np.full(len(left), tiles)
    chosen = [left[0]]
    while len(chosen) < count:
        nearest = np.minimum(nearest, (left != chosen[-1]).sum(1))
        chosen.append(left[nearest.argmax()])
    return np.array(chosen, np.int64)
