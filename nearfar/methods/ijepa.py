"""I-JEPA: from some patches of an image, predict what an EMA copy of the encoder makes of blocks of others.

Mahmoud Assran, Quentin Duval, Ishan Misra, Piotr Bojanowski, Pascal Vincent, Michael Rabbat, Yann LeCun and Nicolas
Ballas, "Self-supervised learning from images with a joint-embedding predictive architecture", CVPR 2023
(arXiv:2301.08243).

Choose it when the encoder is a vision transformer, the run is long, and images must not be changed by colours or flips:
it predicts features where MAE predicts pixels.

Shapes: N images, one view, of which T patches; at (N, B, t), which patches the B target blocks of t patches each are;
y (N, B, t, D), predicted for them from the encoder's tokens of the context; target (N, T, D), what the EMA copy makes
of the patches of the whole image, each at mean 0 and variance 1.

The smooth absolute error, as plain loops over the patches of the blocks:

    def loss(y, target, at, standardised):
        n, places, total = len(y), len(target[0]), 0.0
        if standardised:
            target = target - sum(target[i] for i in range(n)) / n
            variance = sum(target[i][p] ** 2 for i in range(n) for p in range(places)) / (n * places)
            target = target / sqrt(variance + 1e-6)
        for i in range(n):
            for b in range(len(at[i])):
                for k in range(len(at[i][b])):
                    for a, c in zip(y[i][b][k], target[i][at[i][b][k]]):
                        d = abs(a - c)
                        total += (d**2 / 2 if d < 1 else d - 0.5) / y.numel()
        return total

(`standardised` is ours, see docs/decisions.md. The paper's equation has the squared error; this is the authors' code. Their context is a block of 85 to 100 % of the
image without the target blocks, cut to the least number of patches in a batch. Here it is a fixed share of the patches
that are in no target block, drawn by chance, so that an image's masks do not depend on the rest of its batch.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..core.errors import NearfarError
from ..images.view_settings import Views
from ..models import Encoder
from ..models.ema import ema_copy, ema_update
from ..models.transformer import TransformerBlock, positions
from .base import Batch, Expects, Loss, Method
from .recipes import MASKED, WEAK, recipes

SCALE, ASPECT = (
    (0.15, 0.2),
    (0.75, 1.5),
)  # of a target block: share of the image, height to width; the authors' code
TRIES = (
    8  # draws of an image's blocks, of which the first that leaves enough patches for the context is taken
)


@dataclass(frozen=True)
class Config:
    """I-JEPA's own settings."""

    context: float = setting(
        0.25, "share of the patches that the encoder sees", low=0.05, high=0.75,
        source="ours; the authors' is what target blocks leave of an image",
    )  # fmt: skip
    target_blocks: int = setting(4, "blocks of patches that are predicted", low=1, source="I-JEPA, section 3")
    standardised: bool = setting(
        True,
        "bring what is predicted to mean 0 over the images of a batch at each place, and to variance 1; without it "
        "a small transformer that starts from random weights predicts what all images have in common",
        source="ours, docs/decisions.md; I-JEPA: a layer norm alone",
    )
    predictor_width: int = setting(
        384, "width of the predictor's tokens, a multiple of 4", low=4, source="the authors' code"
    )
    predictor_depth: int = setting(12, "blocks of the predictor", low=1, source="the authors' code")
    ema: float = setting(
        0.996, "momentum of the EMA copy at the start; it rises to 1", low=0.0, high=1.0,
        source="the authors' code",
    )  # fmt: skip


class Predictor(nn.Module):
    """Blocks that see tokens of the context and, for each place that is asked for, one learned token."""

    def __init__(self, dim: int, width: int, depth: int) -> None:
        """Build it with random weights, for tokens of `dim` numbers."""
        super().__init__()
        self.enter, self.leave = nn.Linear(dim, width), nn.Linear(width, dim)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, max(1, width // 32)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, seen: Tensor, at: Tensor, where: Tensor) -> Tensor:
        """(n, k, dim) of the patches `seen` (n, k) -> (n, t, dim) for the patches `at` (n, t) of places (T, width)."""
        y = self.enter(tokens)
        asked = self.mask.to(y.dtype) + where.to(y)[at]
        y = self.norm(self.blocks(torch.cat([y + where.to(y)[seen], asked], 1)))
        found: Tensor = self.leave(y[:, seen.shape[1] :])
        return found


class IJEPA(Method):
    """I-JEPA: f on the context, a predictor, and an EMA copy of f on whole images, which is what a run keeps."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    modality: ClassVar[str | None] = "images"
    exports: ClassVar[str] = "slow_f"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the predictor and the EMA copy; see `Config`."""
        super().__init__(f, config)
        self.patch = f.patch
        self.predictor = Predictor(f.dim, config.predictor_width, config.predictor_depth)
        self.slow_f = ema_copy(f)

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by the features predicted on held-out images; views need not be near each other."""
        return Expects(
            task="features_explained",
            at_chance="raise --lr, lower --ema, and train longer",
            judged=("linear",),  # vectors of neighbours need not be near, as the papers' figures have it
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Encode the context alone and the whole image, and predict the target blocks."""
        (x,) = batch.views
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        if rows * columns == 1:
            raise NearfarError(
                f"views of {x.shape[3]} px are one patch, which leaves nothing to predict; raise "
                "--image-size."
            )
        seen, at = (
            drawn.to(x.device)
            for drawn in masks(batch, rows, columns, self.config.target_blocks, self.config.context)
        )
        tokens = self.f.tokens(x, seen).patches
        where = positions(rows, columns, self.config.predictor_width)
        blocks = at.shape[1]
        y = self.predictor(
            tokens.repeat_interleave(blocks, 0), seen.repeat_interleave(blocks, 0), at.flatten(0, 1), where
        )
        with torch.no_grad():
            whole = self.slow_f.tokens(x).patches  # type: ignore[operator]
            target = F.layer_norm(whole, whole.shape[2:])
        return y.unflatten(0, (-1, blocks)), target, at

    def loss(self, y: Tensor, target: Tensor, at: Tensor) -> Loss:
        """Compare the target blocks with what was predicted for them."""
        kind = torch.promote_types(y.dtype, torch.float32)
        y, target = y.to(kind), target.to(kind)
        world = distributed.world()
        # About the mean of each place, since that is told by one who sees no image.
        apart = target - collectives.total(target.mean(0)) / world
        variance = collectives.total(apart.square().mean((0, 1))) / world  # (D,)
        if self.config.standardised:
            target = apart = apart / (variance + 1e-6).sqrt()
        truth, own = (of.take_along_dim(at.flatten(1)[:, :, None], 1).view(y.shape) for of in (target, apart))
        watched = {"error": (y - truth).square().mean(), "spread": own.square().mean()}
        return Loss({"smooth_error": F.smooth_l1_loss(y, truth)}, {**watched, "variance": variance.mean()})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Update the EMA copy, whose momentum rises evenly."""
        ema_update(self.slow_f, self.f, self.config.ema + (1 - self.config.ema) * progress)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell which share of the variance of the features was predicted, and that variance; near 0 is collapse."""
        error, spread = (collectives.total(watched[name]) for name in ("error", "spread"))
        explained = (1 - error / spread.clamp(min=1e-12)).clamp(min=0)
        return {"features_explained": explained, "feature_variance": watched["variance"]}


def masks(batch: Batch, rows: int, columns: int, blocks: int, context: float) -> tuple[Tensor, Tensor]:
    """Draw the context and the target blocks of each image; all blocks of a step have one shape.

    Args:
        batch: whose key and rows name the draws.
        rows, columns: patches of an image.
        blocks: target blocks.
        context: share of the patches that the context has; fewer where a large block leaves fewer.

    Returns:
        (n, k) int64 patches of the context, in no block, and (n, blocks, t) int64 of the blocks; on the CPU.
    """
    key, n = rng.fold(batch.key, "masks"), len(batch.rows)
    u = rng.uniform(key, [0], 2)[0]
    size = rows * columns * (SCALE[0] + (SCALE[1] - SCALE[0]) * u[0])
    aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * u[1]
    height = min(max(1, round(math.sqrt(size * aspect))), max(1, rows - 1))
    width = min(max(1, round(math.sqrt(size / aspect))), max(1, columns - 1))
    corner = rng.uniform(rng.fold(key, "corners"), batch.rows, 2 * blocks * TRIES).reshape(
        n, TRIES, blocks, 2
    )
    corner[:, -1] = corner[:, -1, :1]  # at the end all blocks in one place, which leaves most
    top = (corner[..., 0] * (rows - height + 1)).astype(np.int64)
    left = (corner[..., 1] * (columns - width + 1)).astype(np.int64)
    inside = (np.arange(height)[:, None] * columns + np.arange(width)).ravel()
    at = (top * columns + left)[..., None] + inside  # (n, TRIES, blocks, t)
    taken = np.zeros((n, TRIES, rows * columns), bool)
    np.put_along_axis(taken, at.reshape(n, TRIES, -1), True, 2)
    count = max(1, min(round(rows * columns * context), rows * columns - len(inside)))
    first = (taken.sum(2) <= rows * columns - count).argmax(1)
    order = taken[np.arange(n), first] + rng.uniform(rng.fold(key, "context"), batch.rows, rows * columns)
    seen = order.argsort(1, kind="stable")[:, :count]
    return torch.from_numpy(seen), torch.from_numpy(at[np.arange(n), first])


_SMALL = {"encoder": "vit_w192_d6", "predictor_width": 96, "predictor_depth": 2}
IJEPA.recipes = recipes(
    cpu={**WEAK, **_SMALL, "ema": 0.99, "flip": 0.0},
    cifar={**MASKED, **_SMALL, "lr": 1.25e-4, "crop_min": 0.3, "flip": 0.0},
    imagenet={**MASKED, "encoder": "vit_base_patch16_224", "lr": 1.25e-4, "crop_min": 0.3, "flip": 0.0},
    vit={**WEAK, "lr": 1.25e-4, "weight_decay": 0.05, "crop_min": 0.3, "flip": 0.0},
)
