"""NPID: tell each image from all others, by a memory bank with a feature of every image.

Zhirong Wu, Yuanjun Xiong, Stella X. Yu and Dahua Lin, "Unsupervised feature learning via non-parametric instance
discrimination", CVPR 2018 (arXiv:1805.01978).

Choose it when there are up to some ten thousand images and time for at least ten epochs: a row of the bank is
renewed once an epoch. One view of each image is enough.

Shapes: N images, one view; rows (N,), which images they are; v (N, P) from the encoder f and a linear layer g,
of length 1; bank (M, P), one row for each of the M images that are trained on, of length 1; drawn (N, K), the
images that each is compared with, where K is 0 for all.

Equations 2 and 5 to 7, as plain loops:

    def loss(v, rows, drawn, bank, tau, z):
        total = 0.0
        for i in range(len(v)):
            own = exp(dot(bank[rows[i]], v[i]) / tau)
            if len(drawn[i]) == 0:
                total += -log(own / sum(exp(dot(m, v[i]) / tau) for m in bank))
                continue
            noise = len(drawn[i]) / len(bank)
            total += -log(own / z / (own / z + noise))
            for j in drawn[i]:
                total += -log(noise / (exp(dot(bank[j], v[i]) / tau) / z + noise))
        return total / len(v)

(The second form, NCE, needs z, the sum in the first one; it is estimated from the first ten batches. After each
step the row of an image moves: m = unit(0.5 m + 0.5 v).)
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
from ..images.view_settings import Views
from ..losses import unit
from ..models import Encoder
from ..models.bank import Bank
from .base import Batch, Expects, Loss, Method
from .recipes import recipes

SETTLING = 10  # batches from which NCE's z is estimated


@dataclass(frozen=True)
class Config:
    """NPID's own settings."""

    temperature: float = setting(
        0.1,
        "temperature; lower values give near negatives more weight",
        low=0.003,
        high=100.0,
        source="the authors' code for CIFAR; NPID, section 4: 0.07 for ImageNet",
    )
    width: int = setting(128, "width of v and of the bank's rows", low=1, source="NPID, section 4")
    bank_negatives: int = setting(
        0,
        "number of images, drawn at random, that each is compared with (NCE); 0: all, exactly",
        low=0,
        source="the authors' code: 0 for CIFAR, 4096 for ImageNet",
    )
    bank_momentum: float = setting(
        0.5, "momentum of the bank's rows", low=0.0, high=1.0, source="the authors' code"
    )


class NPID(Method):
    """NPID: f, a linear layer g, and a memory bank."""

    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    any_side: ClassVar[bool] = True
    log_normalizer: Tensor
    settled: Tensor

    def __init__(self, f: Encoder, config: Config = Config(), images: int = 1) -> None:
        """Add the layer and the bank; see `Config`.

        Args:
            f: the encoder.
            config: the method's own settings.
            images: how many are trained on.
        """
        super().__init__(f, config)
        self.g = nn.Linear(f.dim, config.width)
        self.memory = Bank(images, config.width)
        self.tau = config.temperature
        # Of z over the number of images, which float32 does not hold at low temperatures.
        self.register_buffer("log_normalizer", torch.zeros(()))
        self.register_buffer("settled", torch.zeros((), dtype=torch.int64))

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by partners found, after ten passes: an image is compared with its own row once a pass."""
        return Expects(passes=10, at_chance="train longer: the bank learns once a pass over the images")

    @property
    def bank(self) -> Tensor:
        """The rows of the bank, (M, P)."""
        return self.memory.rows.to(self.g.weight.dtype)

    @property
    def z(self) -> Tensor:
        """The sum over the bank that NCE takes as known."""
        return self.log_normalizer.exp() * len(self.memory.rows)

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the view into v, and draw the images it is compared with."""
        (x,) = batch.views
        v = unit(self.g(self.f(x)))
        return (
            v,
            batch.rows.to(v.device),
            drawn(batch, self.config.bank_negatives, len(self.memory.rows)).to(v.device),
        )

    def loss(self, v: Tensor, rows: Tensor, drawn: Tensor) -> Loss:
        """Compare with the bank: equation 2 if `drawn` is empty, else equation 7."""
        found, seen = compare(v, rows, drawn, self)
        return Loss({"instances": found}, {"v": v, "rows": rows, **seen})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Move the rows of the bank, and in the first batches NCE's z."""
        self.memory.update(watched["rows"], watched["v"], self.config.bank_momentum)
        settle(self, watched)

    def negatives(self, batch: int) -> int:
        """All images but one, or those that are drawn."""
        return self.config.bank_negatives or len(self.memory.rows) - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often an image's own row is the most similar of those compared."""
        own = collectives.total(watched["first"].float().mean()) / distributed.world()
        return {"own_row_first": own}


# The authors' code: crops from 0.2, colours always, no flip for CIFAR, no blur.
_VIEWS = {
    "crop_min": 0.2,
    "jitter": 1.0,
    "flip": 0.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.4,
    "grayscale": 0.2,
    "blur": 0.0,
}
_LARGE = {**_VIEWS, "flip": 0.5, "temperature": 0.07, "bank_negatives": 4096}
NPID.recipes = recipes(
    cpu={"crop_min": 0.2},
    cifar={**_VIEWS, "batch_size": 128, "lr": 0.03, "lr_scaling": "fixed"},
    imagenet={
        **_LARGE,
        "optimizer": "sgd",
        "lr": 0.03,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
        "warmup": 0.0,
    },
    vit=_LARGE,
)


def drawn(batch: Batch, count: int, images: int) -> Tensor:
    """Draw images for each image of a batch, by its name: (n, count) int64."""
    u = rng.uniform(rng.fold(batch.key, "negatives"), batch.rows, count)
    return torch.from_numpy(np.minimum((u.astype(np.float64) * images).astype(np.int64), images - 1))


def compare(v: Tensor, rows: Tensor, drawn: Tensor, method: NPID) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare features with the bank of a method.

    Args:
        v: (n, P) of length 1.
        rows: (n,) int64, which images they are.
        drawn: (n, K) int64, the images they are compared with; K is 0 for all.
        method: whose bank, temperature and z are used.

    Returns:
        The loss, a scalar, and what is watched: whether an image's own row came first, (n,), and the logarithm of
        the mean of exp(similarity / tau), from which z is estimated.
    """
    kind = torch.promote_types(v.dtype, torch.float32)
    v, bank = v.to(kind), method.memory.rows  # converted where it is read, which NCE does in part
    with torch.autocast(v.device.type, enabled=False):
        if not drawn.shape[1]:
            similarity = v @ bank.to(kind).T / method.tau  # (n, M)
            return F.cross_entropy(similarity, rows), {"first": similarity.argmax(1) == rows}
        own = (bank[rows].to(kind) * v).sum(1) / method.tau  # (n,)
        others = torch.einsum("nkp,np->nk", bank[drawn].to(kind), v) / method.tau  # (n, K)
        every = torch.cat([own[:, None], others], 1)
        log_mean = _log_mean(every.detach())
        known = torch.where(method.settled > 0, method.log_normalizer.to(kind), _everywhere(log_mean))
        odds = known + math.log(drawn.shape[1])
        found = F.softplus(odds - own) + F.softplus(others - odds).sum(1)
        return found.mean(), {"first": own > others.amax(1), "log_mean": log_mean}


def settle(method: NPID, watched: Mapping[str, Tensor]) -> None:
    """Take a batch's mean into NCE's z, while that is being estimated."""
    if "log_mean" in watched:
        share = (method.settled < SETTLING) / (method.settled + 1)
        before = method.log_normalizer + (1 - share).log()
        found = torch.logaddexp(before, _everywhere(watched["log_mean"]).to(before) + share.log())
        method.log_normalizer.copy_(found)
        method.settled += 1


def _log_mean(x: Tensor) -> Tensor:
    """Compute the logarithm of the mean of exp(x)."""
    return x.flatten().logsumexp(0) - math.log(x.numel())


def _everywhere(log_mean: Tensor) -> Tensor:
    """Average over the processes what a logarithm is given of."""
    return _log_mean(collectives.gather(log_mean[None], grad=False))
