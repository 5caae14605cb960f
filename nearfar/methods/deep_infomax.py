"""Deep InfoMax: tell, from an image's vector, which places of feature maps belong to the same image.

R Devon Hjelm, Alex Fedorov, Samuel Lavoie-Marchildon, Karan Grewal, Phil Bachman, Adam Trischler and Yoshua Bengio,
"Learning deep representations by mutual information estimation and maximization", ICLR 2019 (arXiv:1808.06670).

Choose it when images must not be changed by colours or crops at all, because all of their content matters.

Shapes: N images, one view; maps (N, P, U), a feature map of the encoder f at P places, through a small network;
h (N, U), the image's vector through another; whole (N, U), the mean of the map's places through a third; told (N,) and
drawn (N,), a discriminator's answers to the image's vector and to one drawn evenly from [0, 1], through which the
discriminator alone learns; encoded (N,), the same as told, through which the encoder alone learns.

Equations 4 to 8, as plain loops:

    def loss(maps, h, whole, told, drawn, encoded, estimator, local, global_, prior):
        n, places = len(maps), len(maps[0])

        def softplus(x):
            return log(1 + exp(x))

        def information(maps):
            places, total = len(maps[0]), 0.0
            for i in range(n):
                for p in range(places):
                    own = dot(maps[i][p], h[i])
                    others = [dot(maps[j][q], h[i]) for j in range(n) if j != i for q in range(places)]
                    if estimator == "jsd":
                        total += softplus(-own) / (n * places)
                        total += sum(softplus(x) for x in others) / (n * places * len(others))
                    else:
                        total += log(1 + sum(exp(x - own) for x in others)) / (n * places)
            return total

        loss = local * information(maps) + global_ * information(whole[:, None])
        for i in range(n):
            loss += prior * (softplus(-told[i]) + softplus(drawn[i]) + softplus(encoded[i])) / n
        return loss

(The whole is the mean of the map's places, where the authors' is the map through the encoder's top. Their network for the
map has a batch norm, and a shortcut that begins as the identity; here it has neither.
Before the discriminator each number of a vector has the mean and the variance of an even one: the authors' vectors, from
a linear layer, may be negative, and f's, which come from a ReLU, may not.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..images.view_settings import Views
from ..models import Encoder, mlp
from .base import Batch, Expects, Loss, Method
from .recipes import WEAK, recipes

LOGISTIC = math.pi / 3**0.5  # deviation of numbers whose sigmoid is drawn evenly from [0, 1]


@dataclass(frozen=True)
class Config:
    """Deep InfoMax's own settings."""

    estimator: str = setting(
        "infonce",
        "how information is estimated",
        choices=("infonce", "jsd"),
        source="Deep InfoMax, table 2: better by two points",
    )
    local: float = setting(
        1.0, "weight of the places of the map", low=0.0, source="Deep InfoMax, appendix A.2"
    )
    global_: float = setting(
        0.0, "weight of the map as a whole", low=0.0, source="Deep InfoMax, section 4.1: 0"
    )
    prior: float = setting(
        0.1, "weight of the term that spreads vectors evenly", low=0.0, source="the authors' code"
    )
    stride: int = setting(
        4,
        "pixels from one place of the map to the next, at most",
        low=1,
        source="the authors' code: a map of 8 x 8 places for CIFAR",
    )
    units: int = setting(
        512, "width of what is compared, U", low=1, source="the authors' code: 2048; 512 for small networks"
    )


class Critic(nn.Module):
    """A small network with a linear shortcut, to `units` numbers, and a layer norm."""

    def __init__(self, width: int, units: int) -> None:
        """Build it on features of a width."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, units), nn.ReLU(), nn.Linear(units, units))
        self.shortcut = nn.Linear(width, units)
        self.norm = nn.LayerNorm(units)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., units), whose dot products are near 1 at the start."""
        y: Tensor = self.norm(self.net(x) + self.shortcut(x)) * self.norm.normalized_shape[0] ** -0.25
        return y


class DeepInfoMax(Method):
    """Deep InfoMax: f, networks for the map, the vector and the whole, and a discriminator."""

    modality: ClassVar[str | None] = "images"

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the networks; see `Config`."""
        super().__init__(f, config)
        self.level = max([i for i, stride in enumerate(f.strides) if stride <= config.stride], default=0)
        width = f.map_widths[self.level]
        self.on_map, self.on_vector = Critic(width, config.units), Critic(f.dim, config.units)
        self.on_whole = Critic(width, config.units) if config.global_ else None
        self.d = mlp(f.dim, 1000, 200, 1, norm=False, last_norm=False) if config.prior else None
        self.norm = nn.BatchNorm1d(f.dim, affine=False) if config.prior else None

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by how often, of a batch of held-out images, the own map is the one told."""
        return Expects(
            task="own_map_accuracy", chance=None, at_chance="raise --lr, lower --prior, and train longer"
        )

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Turn the view into what is compared: places, vector and whole, and the discriminator's answers."""
        (x,) = batch.views
        h, levels = self.f.with_maps(x)
        places = levels[self.level].flatten(2).transpose(1, 2)  # (N, P, C)
        u = self.on_vector(h)
        whole = u.new_zeros(u.shape) if self.on_whole is None else self.on_whole(places.mean(1))
        if self.d is None or self.norm is None:
            told = drawn = encoded = u.new_zeros(len(u))
        else:
            squashed = (LOGISTIC * self.norm(h)).sigmoid()
            even = rng.uniform(rng.fold(batch.key, "prior"), batch.rows, h.shape[1])
            told = self.d(squashed.detach())[:, 0]
            drawn = self.d(torch.from_numpy(even).to(squashed))[:, 0]
            fixed = {name: p.detach() for name, p in self.d.named_parameters()}
            encoded = functional_call(self.d, fixed, (squashed,))[:, 0]
        return self.on_map(places), u, whole, told, drawn, encoded

    def loss(
        self, maps: Tensor, h: Tensor, whole: Tensor, told: Tensor, drawn: Tensor, encoded: Tensor
    ) -> Loss:
        """Compare each vector with all maps of the batch: equations 4 to 8."""
        config, kind = self.config, torch.promote_types(h.dtype, torch.float32)
        with torch.autocast(h.device.type, enabled=False):
            h, maps, whole = h.to(kind), maps.to(kind), whole.to(kind)
            found, right = information(maps, h, config.estimator)
            terms = {"local": config.local * found}
            if config.global_:
                terms["global"] = config.global_ * information(whole[:, None], h, config.estimator)[0]
            if config.prior:
                both = F.softplus(-told.to(kind)).mean() + F.softplus(drawn.to(kind)).mean()
                terms["prior_discriminator"] = config.prior * both
                terms["prior"] = config.prior * F.softplus(encoded.to(kind)).mean()
        return Loss(terms, {"right": right})

    def negatives(self, batch: int) -> int:
        """All other images of the batch."""
        return batch - 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how often an image's vector fits its own map best of all of the batch."""
        right = collectives.total(watched["right"].float().mean()) / distributed.world()
        return {"own_map_accuracy": right}


_ADAM = {**WEAK, "optimizer": "adamw", "lr": 1e-4, "lr_scaling": "fixed"}
_LARGE = {**_ADAM, "stride": 16, "units": 2048}
DeepInfoMax.recipes = recipes(
    cpu={**WEAK, "batch_size": 128},
    cifar={**_ADAM, "batch_size": 64, "units": 2048},
    imagenet=_LARGE,
    vit={**_LARGE, "weight_decay": 1e-6},
)


def information(maps: Tensor, h: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
    """Estimate, up to a constant, how little vectors tell of their own maps; over all processes.

    Args:
        maps: (n, places, units), this process's; as many on every process.
        h: (n, units), row for row.
        estimator: "infonce" or "jsd".

    Returns:
        The loss, a scalar that averages over processes to that of the global batch, and (n,) bool: whether the
        own map fits best, by the mean over its places.
    """
    n, places, _ = maps.shape
    scores = collectives.products(h, maps.flatten(0, 1)).view(n, -1, places)  # (n, N, places)
    own = torch.arange(len(h), device=h.device) + distributed.rank() * len(h)
    mine = scores[torch.arange(len(h), device=h.device), own]  # (n, places)
    right = scores.detach().mean(2).argmax(1) == own
    same = torch.zeros(scores.shape[:2], dtype=torch.bool, device=h.device)
    same[torch.arange(len(h), device=h.device), own] = True
    if estimator == "jsd":
        others = F.softplus(scores).masked_fill(same[:, :, None], 0).sum()
        pairs = n * (scores.shape[1] - 1) * places
        return F.softplus(-mine).mean() + others / pairs, right
    others = scores.masked_fill(same[:, :, None], float("-inf")).flatten(1).logsumexp(1)
    return F.softplus(others[:, None] - mine).mean(), right
