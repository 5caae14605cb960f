"""MoCo: find each view's partner among a long queue of other images, encoded by an EMA copy of the encoder.

Kaiming He, Haoqi Fan, Yuxin Wu, Saining Xie and Ross Girshick, "Momentum contrast for unsupervised visual
representation learning", CVPR 2020 (arXiv:1911.05722); the deeper head, the temperature and the blur of
Xinlei Chen, Haoqi Fan, Ross Girshick and Kaiming He, "Improved baselines with momentum contrastive
learning", 2020 (arXiv:2003.04297).

Choose it when the batch must be small: the queue gives many negatives, and one view of two needs no
gradient.

Shapes: N images; queries q (N, P) from the encoder and head f_q, keys k (N, P) from their EMA copy f_k,
keys (K, P), the queue of earlier ones; all rows of length 1.

Equation 1, as plain loops:

    def loss(q, k, keys, tau):
        total = 0.0
        for i in range(len(q)):
            own = exp(dot(q[i], k[i]) / tau)
            others = sum(exp(dot(q[i], key) / tau) for key in keys)
            total += -log(own / (own + others))
        return total / len(q)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core import distributed
from ..core.config import setting
from ..losses import info_nce, key_accuracy, unit
from ..models import Encoder, mlp
from ..models.ema import ema_copy, ema_update
from ..models.queue import Queue
from .base import Batch, Loss, Method
from .recipes import MOCO_V2, recipes

LEAST = 8  # images in a piece of the batch: batch norm can do with no fewer


@dataclass(frozen=True)
class Config:
    """MoCo's own settings."""

    temperature: float = setting(
        0.2,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="MoCo v2, section 3; v1: 0.07",
    )
    head: tuple[int, ...] = setting(
        (512, 128),
        "widths of the head's layers; the last is the width of the keys; one layer is MoCo v1",
        low=1,
        source="MoCo v2, section 3: two layers without batch norm, 2048 128 for ResNet-50",
    )
    queue: int = setting(
        4096,
        "number of keys of earlier images, used as negatives",
        low=1,
        source="the authors' CIFAR-10 notebook; MoCo, section 4.1: 65536 for ImageNet",
    )
    ema: float = setting(
        0.99,
        "momentum of the EMA copy",
        low=0.0,
        high=1.0,
        source="the authors' CIFAR-10 notebook; MoCo, section 3.2: 0.999 for ImageNet",
    )
    bn_splits: int = setting(
        8,
        "number of parts of a batch with separate batch-norm statistics, each of at least 8 images",
        low=1,
        source="MoCo, section 3.3: 8 GPUs and shuffled batch norm; the authors' CIFAR-10 notebook",
    )


class MoCo(Method):
    """MoCo: f_q with its EMA copy f_k, a queue, and InfoNCE."""

    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head, the EMA copy and the queue; see `Config`."""
        super().__init__(f, config)
        self.g = mlp(f.dim, *config.head, norm=False, last_norm=False)
        self.f_k = ema_copy(self.f_q)
        self.queue = Queue(config.queue, config.head[-1])
        self.tau, self.ema, self.splits = config.temperature, config.ema, config.bn_splits

    @property
    def f_q(self) -> nn.Sequential:
        """The encoder and its head, as one."""
        return nn.Sequential(self.f, self.g)

    @property
    def keys(self) -> Tensor:
        """The earlier keys that the queue holds, (K, P)."""
        return self.queue.rows

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn one view into q and the other into k."""
        x_q, x_k = batch.views
        q = unit(in_pieces(self.f_q, x_q, self.splits, turn=0))  # (N, P)
        with torch.no_grad():
            k = unit(in_pieces(self.f_k, x_k, self.splits, turn=1))  # (N, P)
        return q, k

    def loss(self, q: Tensor, k: Tensor) -> Loss:
        """Compare the queries with their keys and the queue: equation 1."""
        return Loss({"info_nce": info_nce(q, k, self.keys, self.tau)}, {"q": q, "k": k})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Update the EMA copy, and replace the oldest keys by the new ones."""
        ema_update(self.f_k, self.f_q, self.ema)
        self.queue.push(watched["k"])

    def negatives(self, batch: int) -> int:
        """All keys of the queue."""
        return len(self.keys)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often a query's own key was the nearest of all keys of the batch."""
        return {"contrastive_accuracy": key_accuracy(watched["q"], watched["k"])}


MoCo.recipes = recipes(
    cpu={"temperature": 0.1, "head": (256, 128)},
    cifar={"temperature": 0.1},
    cifar_short={"lr": 0.03},
    imagenet={**MOCO_V2, "lr": 0.03, "head": (2048, 128), "queue": 65536, "ema": 0.999},
)


def in_pieces(net: nn.Module, x: Tensor, splits: int, turn: int) -> Tensor:
    """Encode a batch in pieces, so that its batch statistics cannot tell which key belongs to a query.

    Of the global batch, piece p takes every image i with i = p modulo `splits`; each `turn` shifts every
    group of `splits` images by one more than the group before it. Pieces of turns 0 and 1 thus share as
    few images as they can, 1 in `splits`, and no draw is needed, since batches are shuffled already.

    Args:
        net: the network.
        x: (n, ...), this process's part of the batch.
        splits: pieces; fewer where they would fall below `LEAST` images.
        turn: 0 for queries, 1 for keys.

    Returns:
        (n, P), in the order of x.
    """
    count = max(1, min(splits, len(x) * distributed.world() // LEAST))
    if count == 1:
        return torch.as_tensor(net(x))
    i = distributed.rank() * len(x) + torch.arange(len(x))
    piece = (i + turn * (i // count)) % count
    order = piece.argsort(stable=True).to(x.device)
    sizes = piece.bincount(minlength=count).tolist()
    norms = [part for part in net.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    before = [[buffer.clone() for buffer in norm.buffers()] for norm in norms] if net.training else []
    found, after = [], []
    for part in x[order].split(sizes):
        for norm, kept in zip(norms, before, strict=False):
            for buffer, value in zip(norm.buffers(), kept, strict=True):
                buffer.data.copy_(value)
        found.append(net(part))
        after.append([[buffer.clone() for buffer in norm.buffers()] for norm in norms] if before else [])
    # The statistics move once a step, by the mean over the pieces, as on the authors' eight GPUs.
    for norm, seen in zip(norms if before else [], zip(*after, strict=True), strict=False):
        for buffer, values in zip(norm.buffers(), zip(*seen, strict=True), strict=True):
            mean = torch.stack(values).mean(dim=0) if buffer.is_floating_point() else values[0]
            buffer.data.copy_(mean)
    return torch.cat(found)[order.argsort()]
