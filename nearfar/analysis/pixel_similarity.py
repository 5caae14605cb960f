"""Compares images by their pixels: whether one is a resized, recoloured, cropped, shifted or mirrored copy.

The centred square of each is reduced to 16 x 16 pixels, less its own blur: its fine structure. Two are as
similar as these correlate at the best of a few shifts, mirrored or not; to find cut pictures, the middle of
one is compared with the whole of the other too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ..data.loader import Examples
from ..features.chunked import CHUNK_IMAGES, ragged_chunk
from ..features.extract import features
from ..images.thumbnails import thumbnail
from ..images.views import Preprocess

SIDE = 16  # pixels a side at which pictures are compared
SHIFT = 2  # pixels, of these, that one may be shifted against the other
ROUNDING = 1 / 512  # structure below the rounding of pixels counts as none
PAIRS = 1 << 11  # compared at a time
ZOOMS = (0.9, 0.8)  # parts of a side; what lies between two is within their shifts

Rows = npt.NDArray[np.int64]


class _Fine(nn.Module):
    """Keeps an image's fine structure: less its own blur, so that skies, frames and lamps are nothing.

    The finest of it can be softened by (1, 2, 1) / 4 each way: then half a pixel's shift matters less.
    """

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.soft = soft

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, s, s) -> (n, 3 * s * s)."""
        blur = functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        found = x - blur
        if self.soft:
            found = functional.pad(found, (1, 1, 1, 1), mode="replicate")
            found = functional.avg_pool2d(functional.avg_pool2d(found, 2, stride=1), 2, stride=1)
        return found.flatten(1)


def fine(pixels: Examples, zoom: float = 1.0, soft: bool = False) -> torch.Tensor:
    """Reduce pictures to their fine structure.

    Args:
        pixels: n images.
        zoom: the part of the short side that the centred square keeps.
        soft: whether to soften the finest of it.

    Returns:
        (n, 3, SIDE, SIDE) float32.
    """
    found = features(_Fine(soft), pixels, Preprocess(size=SIDE, crop=zoom), batch_size=2048)
    return torch.from_numpy(found).reshape(-1, 3, SIDE, SIDE)


def zoomed(pixels: Examples) -> torch.Tensor:
    """Reduce pictures to their fine structure, softened, whole and without their borders.

    Args:
        pixels: n images.

    Returns:
        (n, 1 + len(ZOOMS), 3, SIDE, SIDE) float16, 4.6 kB an image.
    """
    return torch.stack([fine(pixels, zoom, soft=True).half() for zoom in (1.0, *ZOOMS)], dim=1)


def zoomed_files(read: Callable[[list[str]], list[bytes]], ids: Sequence[str]) -> torch.Tensor:
    """Reduce pictures in files to their fine structure, a chunk at a time; a missing one has none.

    Args:
        read: gives the image files of some ids, such as a vector store's thumbnails; b"" for none.
        ids: n names.

    Returns:
        As `zoomed`.
    """
    parts = [torch.empty(0, 1 + len(ZOOMS), 3, SIDE, SIDE, dtype=torch.float16)]
    for low in range(0, len(ids), CHUNK_IMAGES):
        files = read(list(ids[low : low + CHUNK_IMAGES]))
        pictures = [_decoded(file) for file in files]
        parts.append(zoomed(ragged_chunk(range(len(files)), pictures)))
    return torch.cat(parts)


def _decoded(file: bytes) -> npt.NDArray[np.uint8]:
    found = thumbnail(file)
    return np.zeros((1, 1, 3), np.uint8) if found is None else found


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Correlate pairs of pictures at every shift of up to SHIFT pixels, mirrored or not.

    Args:
        first, second: (n, 3, SIDE, SIDE) each, from `fine`.

    Returns:
        (n,) the greatest correlation, from -1 to 1; nearly 0 where one of the two has no structure.
    """
    side = SIDE - 2 * SHIFT
    core = second[:, :, SHIFT:-SHIFT, SHIFT:-SHIFT]
    # Shifts to the left and to the right are equally many, so the core is mirrored instead of every window.
    cores = torch.stack([core, core.flip(3)], dim=-1).flatten(1, 3)  # (n, 3 * side^2, 2)
    windows = first.unfold(2, side, 1).unfold(3, side, 1)  # (n, 3, shifts, shifts, side, side)
    windows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (n, shifts^2, 3 * side^2)
    least = ROUNDING * windows.shape[2] ** 0.5
    lengths = windows.norm(dim=2, keepdim=True).clamp_min(least)
    found = windows @ cores / lengths / cores.norm(dim=1, keepdim=True).clamp_min(least)
    return found.flatten(1).amax(dim=1)


def pixel_similarity(first: torch.Tensor, second: torch.Tensor, a: Rows, b: Rows) -> npt.NDArray[np.float32]:
    """Compare pairs of pictures, and parts of one with the whole of the other where zooms are given.

    Args:
        first, second: (n, 3, SIDE, SIDE) and (m, ...) from `fine`, or (n, z, 3, SIDE, SIDE) from `zoomed`.
        a, b: (p,) rows of the first and of the second.

    Returns:
        (p,) from -1 to 1, of the best fit.
    """
    found = np.empty(len(a), np.float32)
    zooms = first.shape[1] if first.dim() == 5 else 1
    for low in range(0, len(a), PAIRS):
        some = slice(low, low + PAIRS)
        mine, theirs = (x[rows[some]].float() for x, rows in ((first, a), (second, b)))
        mine, theirs = (x.reshape(len(x), zooms, 3, SIDE, SIDE) for x in (mine, theirs))
        best = correlation(mine[:, 0], theirs[:, 0])
        for zoom in range(1, zooms):
            best = best.maximum(correlation(mine[:, 0], theirs[:, zoom]))
            best = best.maximum(correlation(mine[:, zoom], theirs[:, 0]))
        found[some] = best.numpy()
    return found
