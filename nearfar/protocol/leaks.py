"""Finds test images that are training images too, or nearly: resized, recoloured, shifted or mirrored.

Features say which training images to look at, pixels decide. Candidates are the nearest few by the encoder
and by raw pixels; a candidate is a near-copy if the fine structure of both, at 16 x 16 pixels, is the same
at the best of a few shifts, mirrored or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ..data.pack import Part, Store
from ..features import features
from ..readers import Rows
from ..views import Preprocess

SIDE = 16  # pixels a side at which images are compared
SHIFT = 2  # pixels, of these, that one may be shifted against the other
LIKE = 0.85  # correlation from which a pair counts as near-copies; see docs/evaluation.md for its choice
ROUNDING = 1 / 512  # structure below the rounding of pixels counts as none
PAIRS = 1 << 11  # compared at a time


@dataclass(frozen=True)
class Copies:
    """What was found for each of m test images.

    Attributes:
        row: (m,) int64, the training image most like it, if it is a copy or nearly; else -1.
        likeness: (m,) float32 from -1 to 1, of the best candidate.
        same: (m,) bool, whether a training image is the same byte for byte.
    """

    row: Rows
    likeness: npt.NDArray[np.float32]
    same: npt.NDArray[np.bool_]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(m,) bool: copies and near-copies."""
        return self.row >= 0

    def pairs(self, test: Store, train: Store) -> list[tuple[str, str, float]]:
        """Name each copy, its original and how alike they are, the most alike first."""
        found = np.flatnonzero(self.known)
        found = found[np.argsort(-self.likeness[found], kind="stable")]
        return [
            (test.ids[at], train.ids[int(self.row[at])], round(float(self.likeness[at]), 3))
            for at in found.tolist()
        ]


def near_copies(test: Store, train: Store, candidates: Rows) -> Copies:
    """Find the test images that training images show too.

    Args:
        test: m images.
        train: the images they should not be among.
        candidates: (m, c) int64, rows of `train` to compare each with.

    Returns:
        What was found; a byte-identical training image is found whether it is a candidate or not.
    """
    rows, place = np.unique(candidates, return_inverse=True)
    mine, theirs = thumbnails(test), thumbnails(Part(train, rows))
    flat = np.empty(candidates.size, np.float32)
    place = place.reshape(-1)
    own = np.arange(len(test)).repeat(candidates.shape[1])
    for low in range(0, len(place), PAIRS):
        some = slice(low, low + PAIRS)
        flat[some] = alike(mine[own[some]], theirs[place[some]]).numpy()
    likeness = flat.reshape(candidates.shape)
    best = likeness.argmax(axis=1)[:, None]
    most = np.take_along_axis(likeness, best, 1)[:, 0]
    row = np.where(most >= LIKE, np.take_along_axis(candidates, best, 1)[:, 0], -1)
    first = {digest.tobytes(): at for at, digest in reversed(list(enumerate(train.digests)))}
    equal = np.array([first.get(digest.tobytes(), -1) for digest in test.digests], np.int64)
    same = equal >= 0
    return Copies(np.where(same, equal, row), np.where(same, np.float32(1), most), same)


class _Fine(nn.Module):
    """Keeps an image's fine structure: less its own blur, so that skies, frames and lamps are nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, s, s) -> (n, 3 * s * s)."""
        blur = functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        return (x - blur).flatten(1)


def thumbnails(store: Store | Part) -> torch.Tensor:
    """Reduce the centred square of every image to its fine structure, (n, 3, SIDE, SIDE) float32."""
    found = features(_Fine(), store, Preprocess(size=SIDE, crop=1.0), batch=2048)
    return torch.from_numpy(found).unflatten(1, (3, SIDE, SIDE))


def alike(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Correlate pairs of thumbnails at every shift of up to SHIFT pixels, mirrored or not.

    Args:
        first, second: (n, 3, SIDE, SIDE) each.

    Returns:
        (n,) the greatest correlation, from -1 to 1; nearly 0 where one of the two has no structure.
    """
    side = SIDE - 2 * SHIFT
    core = second[:, :, SHIFT:-SHIFT, SHIFT:-SHIFT]
    # Shifts to the left and to the right are alike many, so the core is mirrored instead of every window.
    cores = torch.stack([core, core.flip(3)], dim=-1).flatten(1, 3)  # (n, 3 * side^2, 2)
    windows = first.unfold(2, side, 1).unfold(3, side, 1)  # (n, 3, shifts, shifts, side, side)
    windows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (n, shifts^2, 3 * side^2)
    least = ROUNDING * windows.shape[2] ** 0.5
    lengths = windows.norm(dim=2, keepdim=True).clamp_min(least)
    found = windows @ cores / lengths / cores.norm(dim=1, keepdim=True).clamp_min(least)
    return found.flatten(1).amax(dim=1)
