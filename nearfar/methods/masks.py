"""What masked methods share: which patches are masked, patches as rows of pixels, and a small decoder of tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..core import rng
from ..core.errors import NearfarError
from ..core.moments import moments
from ..models.transformer import TransformerBlock, positions
from .base import Batch


def shuffled(batch: Batch, patches: int, name: str = "mask") -> Tensor:
    """Put each image's patches in an order of its own, drawn at random.

    Args:
        batch: whose key and rows name the draws.
        patches: of an image.
        name: of the draw.

    Returns:
        (n, patches) int64 on the CPU: the first so many are kept, the others masked.
    """
    u = rng.uniform(rng.fold(batch.key, name), batch.rows, patches)
    return torch.from_numpy(np.argsort(u, axis=1, kind="stable"))


def some(wanted: int, parts: int, x: Tensor, part: str) -> int:
    """Take so many of an image's parts, but one at least and never all: some are to be hidden, and some seen.

    Args:
        wanted: how many are asked for.
        parts: that there are.
        x: the views, for an error.
        part: the word for one.

    Returns:
        From 1 to `parts` - 1.

    Raises:
        NearfarError: there is one part only.
    """
    if parts < 2:
        raise NearfarError(
            f"views of {x.shape[3]} px are one {part}, which leaves nothing to predict; raise --image-size."
        )
    return min(max(1, wanted), parts - 1)


def patch_pixels(x: Tensor, patch: int) -> Tensor:
    """Cut images into patches.

    Args:
        x: (n, 3, height, width), both multiples of `patch`.
        patch: side of a patch, in pixels.

    Returns:
        (n, t, 3 * patch * patch), row by row from the top left.
    """
    return torch.nn.functional.unfold(x, patch, stride=patch).transpose(1, 2)


def normalised(patches: Tensor) -> Tensor:
    """Bring the pixels of each patch to mean 0 and variance 1.

    Args:
        patches: (n, t, pixels).

    Returns:
        The same shape.

    Source:
        He et al. 2022, "Masked autoencoders are scalable vision learners", section 4.1, and the authors' code.
    """
    mean, variance = moments(patches, 2, keepdim=True, correction=1)
    return (patches - mean) / (variance + 1e-6).sqrt()


class TokenDecoder(nn.Module):
    """Blocks that see the tokens of kept patches and, in the place of each masked one, one learned token.

    Source:
        He et al. 2022, "Masked autoencoders are scalable vision learners", section 3.
    """

    def __init__(self, dim: int, width: int, depth: int, out: int) -> None:
        """Build it with random weights.

        Args:
            dim: numbers in a token that enters.
            width: numbers in a token of its blocks, a multiple of 32.
            depth: blocks.
            out: numbers that leave for each patch.
        """
        super().__init__()
        self.enter = nn.Linear(dim, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, max(1, width // 32)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, out)

    def forward(self, tokens: Tensor, order: Tensor, side: int) -> Tensor:
        """Decode.

        Args:
            tokens: (n, k, dim), of the patches `order[:, :k]`.
            order: (n, t) int64, all patches.
            side: patches in a row.

        Returns:
            (n, t, out), row by row from the top left.
        """
        y = self.enter(tokens)
        hidden = self.mask.to(y.dtype).expand(len(y), order.shape[1] - y.shape[1], -1)
        y = torch.cat([y, hidden], 1).take_along_dim(order.argsort(1)[:, :, None], 1)
        where = positions(order.shape[1] // side, side, y.shape[2])
        found: Tensor = self.leave(self.norm(self.blocks(y + where.to(y))))
        return found
