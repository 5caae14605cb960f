"""LeJEPA: bring the views of an image to their mean, and the features of all images to a normal distribution.

Randall Balestriero and Yann LeCun, "LeJEPA: Provable and scalable self-supervised learning without the
heuristics", 2025 (arXiv:2511.08544).

Choose it when you want one setting to choose and nothing else that prevents collapse: no negatives, EMA copy,
queue or stop-gradient. It works with batches of 128.

Shapes: N images, V views; f(view) (N, D); z (V, N, P) from the head g, of any length; directions (M, P) of
length 1, new ones at each step.

The loss, as plain loops:

    def loss(z, directions, lambda_):
        views, n = len(z), len(z[0])
        pull = 0.0
        for i in range(n):
            centre = sum(view[i] for view in z) / views
            pull += sum(dot(view[i] - centre, view[i] - centre) for view in z)
        pull = pull / (views * n * len(z[0][0]))
        sigreg, step = 0.0, 3 / 16
        for view in z:
            for a in directions:
                for k in range(17):
                    t = k * step
                    normal = exp(-t * t / 2)
                    real = sum(cos(t * dot(a, row)) for row in view) / n
                    imaginary = sum(sin(t * dot(a, row)) for row in view) / n
                    error = (real - normal) ** 2 + imaginary**2
                    sigreg += n * (step if k in (0, 16) else 2 * step) * normal * error
        return (1 - lambda_) * pull + lambda_ * sigreg / (views * len(directions))

(The second term, SIGReg, is Epps and Pulley's test of whether numbers are normally distributed, for the
features along each direction: it compares the mean of exp(i t x) with that of a normal distribution, exp(-t^2
/ 2), at 17 values of t from 0 to 3, by the trapezoidal rule. For normal features it is near 1, for any N.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import collectives, distributed
from ..core.config import setting
from ..images.view_settings import Views
from ..losses import unit
from ..losses.statistics import centred
from ..models import Encoder, mlp
from .base import Batch, Loss, Method
from .recipes import recipes

KNOTS, REACH = 17, 3.0  # values of t, from 0 to REACH


@dataclass(frozen=True)
class Config:
    """LeJEPA's own settings."""

    lambda_: float = setting(
        0.05,
        "weight of SIGReg; the distance between views has 1 minus that",
        low=0.0,
        high=1.0,
        source="our prototype; the authors' minimal example: 0.02",
    )
    n_views: int = setting(4, "number of views of an image", low=2, source="the authors' minimal example")
    directions: int = setting(
        1024,
        "number of random directions, M, along which features are compared with a normal distribution",
        low=1,
        source="the authors' code; its minimal example: 256",
    )
    head: tuple[int, ...] = setting(
        (2048, 2048, 64),
        "widths of the head's layers; the last is the width of z",
        low=1,
        source="the authors' minimal example, with 16 to 128 at the end",
    )


class LeJEPA(Method):
    """LeJEPA: f, a head g, the distance of views from their mean, and SIGReg."""

    any_side: ClassVar[bool] = True

    step: Tensor

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head; see `Config`."""
        super().__init__(f, config)
        self.g = mlp(f.dim, *config.head, last_norm=False)
        # Names the directions of a step, which all processes must share; it starts at a number of the seed.
        self.register_buffer("step", torch.randint(2**62, ()))

    @property
    def directions(self) -> Tensor:
        """The directions of this step, (M, P)."""
        draw = torch.Generator().manual_seed(int(self.step))
        shape = self.config.directions, self.config.head[-1]
        return unit(torch.randn(shape, generator=draw)).to(next(self.g.parameters()))

    def views(self, views: Views) -> tuple[Views, ...]:
        """As many views as are asked for, all alike."""
        return (views,) * self.config.n_views

    def embed(self, batch: Batch) -> tuple[tuple[Tensor, ...]]:
        """Turn the views into a z each."""
        z = self.g(self.f(torch.cat(batch.views)))  # all views see one batch norm
        return (z.chunk(len(batch.views)),)

    def loss(self, z: tuple[Tensor, ...]) -> Loss:
        """Compare the views of each image, and the features of all images with a normal distribution."""
        stacked = torch.stack(z)  # (V, N, P)
        stacked = stacked if stacked.dtype == torch.float64 else stacked.float()
        pull = (stacked - stacked.mean(0)).square().mean()
        found = sigreg(stacked, self.directions)
        terms = {"pull": (1 - self.config.lambda_) * pull, "sigreg": self.config.lambda_ * found}
        return Loss(terms, {"z": z[0], "sigreg": found})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Go on to new directions."""
        self.step += 1

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how much a feature of z varies, where 1 is aimed at, and SIGReg, which is near 1 at best."""
        variance = collectives.total(centred(watched["z"]).square().mean(0)) / distributed.world()
        return {"deviation": variance.sqrt().mean(), "normality": watched["sigreg"]}


# The authors' README: AdamW at 5e-4, whose weight decay is 5e-4 for ResNets and 5e-2 for vision transformers.
_FIXED = {"optimizer": "adamw", "lr": 5e-4, "lr_scaling": "fixed", "batch_size": 256}
LeJEPA.recipes = recipes(
    cpu={"head": (512, 512, 64), "directions": 256, "batch_size": 128},
    cifar={"batch_size": 256},
    imagenet={**_FIXED, "weight_decay": 5e-4},
    vit={**_FIXED, "weight_decay": 5e-2},
)


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """Measure how far features are from a normal distribution of mean 0 and variance 1, over all processes.

    Args:
        z: (..., n, d) float32 or float64, this process's rows; as many on every process.
        directions: (m, d) of length 1, the same on every process.

    Returns:
        A scalar, the mean over the leading dimensions and the directions of Epps and Pulley's statistic.

    Source:
        Balestriero and LeCun 2025, LeJEPA, section 4, and the authors' code.
    """
    n = z.shape[-2] * distributed.world()
    with torch.autocast(z.device.type, enabled=False):
        t = torch.linspace(0, REACH, KNOTS, dtype=z.dtype, device=z.device)
        x = (z @ directions.to(z.dtype).T)[..., None] * t  # (..., n, m, KNOTS)
        normal = torch.exp(-t.square() / 2)
        weights = 2 * REACH / (KNOTS - 1) * normal
        weights = torch.cat([weights[:1] / 2, weights[1:-1], weights[-1:] / 2])  # the trapezoidal rule
        real = collectives.total(x.cos().sum(-3)) / n
        imaginary = collectives.total(x.sin().sum(-3)) / n
        errors = (real - normal).square() + imaginary.square()
        return n * (errors @ weights).mean()
