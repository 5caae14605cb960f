"""SwAV: assign each view to prototypes, evenly over the batch, and predict one view's assignment from another.

Mathilde Caron, Ishan Misra, Julien Mairal, Priya Goyal, Piotr Bojanowski and Armand Joulin, "Unsupervised
learning of visual features by contrasting cluster assignments", NeurIPS 2020 (arXiv:2006.09882).

Choose it when images form many groups of about the same size, or when you can afford the time for small
crops, which improve it.

Shapes: N images, V views, of which the first two are full; z (N, P) of length 1 from f and a head g; C
(K, P) prototypes of length 1; scores z C^T (N, K); codes Q (N, K) of the full views, rows adding up to 1.

Section 3.1 with equation 2, as plain loops over the views' scores (stop: no gradient flows):

    def codes(scores, epsilon, sinkhorn_iterations):
        n, k = len(scores), len(scores[0])
        q = [[stop(exp(scores[i][c] / epsilon)) for c in range(k)] for i in range(n)]
        for _ in range(sinkhorn_iterations):
            for c in range(k):
                total = sum(q[i][c] for i in range(n))
                for i in range(n):
                    q[i][c] = q[i][c] / (total * k)
            for i in range(n):
                total = sum(q[i])
                q[i] = [value / (total * n) for value in q[i]]
        return [[value * n for value in row] for row in q]

    def loss(scores, tau, epsilon, sinkhorn_iterations):
        total = 0.0
        for s in range(2):
            q = codes(scores[s], epsilon, sinkhorn_iterations)
            for t in range(len(scores)):
                for i in range(len(q) if t != s else 0):
                    below = sum(exp(x / tau) for x in scores[t][i])
                    total -= sum(a * log(exp(x / tau) / below) for a, x in zip(q[i], scores[t][i]))
        return total / (len(scores[0]) * 2 * (len(scores) - 1))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed
from ..core.config import setting
from ..images.view_settings import Views
from ..images.views import View
from ..losses import unit
from ..losses.statistics import spread
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .recipes import recipes

NARROW = 0.025  # epsilon, below which exp(-2 / epsilon), the least that scores can give, is no float32


@dataclass(frozen=True)
class Config:
    """SwAV's own settings."""

    temperature: float = setting(0.1, "temperature of the prediction", low=0.003, source="SwAV, appendix A.1")
    prototypes: int = setting(
        3000, "number of prototypes, K; several times the number of groups, and well below the batch and the queue", low=2,
        source="SwAV, appendix A.1",
    )  # fmt: skip
    epsilon: float = setting(
        0.05,
        "regularisation of the codes; higher values make them more uniform",
        low=0.003,
        source="SwAV, section 3.1",
    )
    sinkhorn_iterations: int = setting(
        3, "iterations of the Sinkhorn algorithm", low=1, source="SwAV, section 3.1"
    )
    head: tuple[int, ...] = setting(
        (2048, 128),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="SwAV, appendix A.1",
    )
    local_crops: int = setting(
        0, "number of small views in addition to the two full ones", low=0, source="SwAV, section 3.2: 6"
    )
    freeze_last_layer: float = setting(
        0.0, "share of the training at the start in which the prototypes are frozen", low=0.0, high=1.0,
        source="SwAV's code: one epoch",
    )  # fmt: skip
    queue: int = setting(
        0, "number of earlier images over which codes are computed too, for each full view", low=0,
        source="SwAV, section 4.2: 3840 for batches of 256",
    )  # fmt: skip
    queue_start: float = setting(
        0.0, "share of the training after which the queue is filled", low=0.0, high=1.0,
        source="SwAV's code: epoch 15",
    )  # fmt: skip


class SwAV(Method):
    """SwAV: f, a head g, prototypes C, and, for small batches, a queue of earlier z."""

    any_side: ClassVar[bool] = True

    queue: Tensor
    queued: Tensor

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head and the prototypes; see `Config`."""
        super().__init__(f, config)
        self.tau = config.temperature
        self.g = mlp(f.dim, *config.head, last_norm=False)
        self.prototypes = nn.Parameter(unit(torch.randn(config.prototypes, config.head[-1])))
        self.register_buffer("queue", torch.zeros(2, config.queue, config.head[-1]))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))

    def views(self, views: Views) -> tuple[Views | View, ...]:
        """Two full views and, if asked, small ones of small parts of the image."""
        if not self.config.local_crops:
            return (views, views)
        part = replace(views, crop_min=min(0.05, views.crop_min), crop_max=views.crop_min)
        return (views, views, *self.config.local_crops * [View(part, 96 / 224)])

    def frozen_at(self, progress: float) -> tuple[str, ...]:
        """Leave the prototypes as they are at the start, where asked."""
        return ("prototypes",) if progress < self.config.freeze_last_layer else ()

    def embed(self, batch: Batch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Turn every view into its scores, z C^T, and z."""
        sides = [batch.views[:2], batch.views[2:]]  # views of one size share one forward
        h = torch.cat([self.f(torch.cat(views)) for views in sides if views])
        z = unit(self.g(h))  # all views see one batch norm of the head
        views = len(batch.views)
        return F.linear(z, self.prototypes.to(z.dtype)).chunk(views), z.chunk(views)

    def loss(self, scores: Sequence[Tensor], z: Sequence[Tensor]) -> Loss:
        """Predict the codes of the full views from every other view: section 3.1."""
        kind = torch.promote_types(scores[0].dtype, torch.float32)
        scores = [view.to(kind) for view in scores]
        total = scores[0].new_zeros(())
        for s, q in enumerate(self._codes(view, s) for s, view in enumerate(scores[:2])):
            for t, view in enumerate(scores):
                if t != s:
                    total = total - (q * (view / self.tau).log_softmax(1)).sum(1).mean()
        return Loss(
            {"cross_entropy": total / (2 * (len(scores) - 1))},
            {"z": torch.cat(list(z)), "full": torch.stack(list(z[:2]))},
        )

    @torch.no_grad()
    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """Compute the codes of a full view: over the batch, and over the queue once that is full."""
        epsilon, iterations, size = self.config.epsilon, self.config.sinkhorn_iterations, self.config.queue
        if not size or int(self.queued) < size:
            return codes(scores, epsilon, iterations)
        world = distributed.world()
        part = self.queue[view, distributed.rank() : size - size % world : world]  # this process's share
        with torch.autocast(scores.device.type, enabled=False):
            earlier = F.linear(part, self.prototypes.detach()).to(scores.dtype)
        return codes(torch.cat([scores, earlier]), epsilon, iterations)[: len(scores)]

    @torch.no_grad()
    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Bring the prototypes back to length 1, and let the batch take the places of the oldest."""
        self.prototypes.copy_(unit(self.prototypes))
        size = self.config.queue
        if size and progress >= self.config.queue_start:
            fresh = torch.stack([collectives.gather(z.contiguous(), grad=False) for z in watched["full"]])
            self.queue.copy_(torch.cat([fresh.to(self.queue.dtype), self.queue], dim=1)[:, :size])
            self.queued.add_(fresh.shape[1]).clamp_(max=size)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how widely z is spread; near 0 is collapse."""
        return {"spread": spread(watched["z"])}


# The authors' script for batches of 256, and solo-learn's for CIFAR; the authors' LARC adapts and decays norms
# and biases too, ours does not. Small views are of parts below --crop-min.
SwAV.recipes = recipes(
    cpu={"head": (256, 128), "prototypes": 256},
    cifar={
        "optimizer": "lars",
        "lr": 0.6,
        "weight_decay": 1e-6,
        "queue": 3840,
        "queue_start": 0.015,
        "freeze_last_layer": 0.002,
    },
    cifar_short={"queue_start": 0.15, "freeze_last_layer": 0.02},
    cifar_warmup_epochs=10,
    imagenet={
        "lr": 0.6,
        "lr_scaling": "linear",
        "warmup": 0.0,
        "local_crops": 6,
        "freeze_last_layer": 0.01,
        "queue": 3840,
        "queue_start": 0.15,
        "crop_min": 0.14,
    },
)


@torch.no_grad()
def codes(scores: Tensor, epsilon: float, sinkhorn_iterations: int, narrow: bool | None = None) -> Tensor:
    """Equation 3 by Sinkhorn and Knopp: (n, K) scores to codes, prototypes evenly used over all processes.

    Args:
        scores: from -1 to 1, or already over epsilon, which is 1 then.
        epsilon: regularisation.
        sinkhorn_iterations: how many.
        narrow: whether exponentials may need float64; None where epsilon tells it.
    """
    kind = torch.promote_types(scores.dtype, torch.float32)
    narrow = epsilon < NARROW if narrow is None else narrow
    scores = scores.to(torch.float64 if narrow and scores.device.type != "mps" else kind)
    top = collectives.gather(scores.max()[None], grad=False).max()
    q, least = ((scores - top) / epsilon).exp(), torch.finfo(scores.dtype).tiny
    for _ in range(sinkhorn_iterations):
        q = q / (collectives.total(q.sum(0)).clamp(min=least) * q.shape[1])
        q = q / (q.sum(1, keepdim=True).clamp(min=least) * len(q) * distributed.world())
    return (q * len(q) * distributed.world()).to(kind)
