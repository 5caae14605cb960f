"""DINO: a student predicts, from one view, the sharpened and centred output of its EMA copy for another.

Mathilde Caron, Hugo Touvron, Ishan Misra, Hervé Jégou, Julien Mairal, Piotr Bojanowski and Armand Joulin,
"Emerging properties in self-supervised vision transformers", ICCV 2021 (arXiv:2104.14294).

Choose it when the encoder is a vision transformer (recipe vit), or when attention to objects matters, and the run
is long.

Shapes: N images, V views, of which the first two are full; x (N, K) outputs of the student, for every view;
y (N, K) outputs of the teacher, for the full ones; the centre (K).

Equation 3 with algorithm 1, as plain loops over the views' outputs:

    def loss(x, y, centre, tau_s, tau_t):
        total, pairs = 0.0, 0
        for t in range(len(y)):
            for s in range(len(x)):
                if s == t:
                    continue
                pairs += 1
                for i in range(len(x[s])):
                    sharp = [exp((a - c) / tau_t) for a, c in zip(y[t][i], centre)]
                    below = sum(exp(a / tau_s) for a in x[s][i])
                    for p, a in zip(sharp, x[s][i]):
                        total -= p / sum(sharp) * log(exp(a / tau_s) / below)
        return total / (pairs * len(x[0]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed
from ..core.config import setting
from ..images.view_settings import Views
from ..images.views import View
from ..losses import unit
from ..losses.statistics import spread
from ..models import Encoder
from ..models.ema import cosine_momentum, ema_copy, ema_update
from .base import Batch, Loss, Method
from .byol import asymmetric
from .recipes import BYOL_COLOURS, recipes


@dataclass(frozen=True)
class Config:
    """DINO's own settings."""

    student_temperature: float = setting(
        0.1, "temperature of the student", low=0.003, source="DINO, section 3.2"
    )
    teacher_temperature: float = setting(
        0.07, "temperature of the teacher after the warmup", low=0.003, source="DINO, appendix C"
    )
    teacher_temperature_start: float = setting(
        0.04, "temperature of the teacher at the start", low=0.003, source="DINO, section 3.2"
    )
    teacher_temperature_warmup: float = setting(
        0.1,
        "share of the training in which the teacher's temperature rises",
        low=0.0,
        high=1.0,
        source="DINO: 30 of 300 epochs",
    )
    ema: float = setting(
        0.996, "momentum of the teacher at the start; it rises to 1", low=0.0, high=1.0,
        source="DINO, section 3.1",
    )  # fmt: skip
    centre: float = setting(0.9, "momentum of the centre", low=0.0, high=1.0, source="DINO, appendix D")
    prototypes: int = setting(4096, "width of the output, K", low=2, source="DINO: 65536; 4096 for CIFAR")
    head: tuple[int, ...] = setting(
        (2048, 2048, 256), "widths of the head's layers; the last output is scaled to length 1", low=1,
        source="DINO, appendix C",
    )  # fmt: skip
    local_crops: int = setting(
        0, "number of small views in addition to the two full ones", low=0, source="DINO's code: 8"
    )
    freeze_last_layer: float = setting(
        0.0, "share of the training at the start in which the last layer is frozen", low=0.0, high=1.0,
        source="DINO's code: one epoch",
    )  # fmt: skip


class Head(nn.Module):
    """Linear layers with GELU between, length 1, and a last layer whose rows have length 1."""

    def __init__(self, width: int, config: Any, norm: bool = False) -> None:
        """Build the head on features of a width, with a batch norm before each GELU if asked."""
        super().__init__()
        widths, layers = (width, *config.head), list[nn.Module]()
        for inside, outside in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(inside, outside), *([nn.BatchNorm1d(outside)] if norm else []), nn.GELU()]
        self.layers = nn.Sequential(*layers[: -2 if norm else -1])
        # As the authors' weight-normed linear layer begins: only directions count, and the longer a row is,
        # the less a step turns it.
        reach = widths[-1] ** -0.5
        self.last = nn.Parameter(torch.empty(config.prototypes, widths[-1]).uniform_(-reach, reach))

    def forward(self, h: Tensor) -> Tensor:
        """(N, width) -> (N, K)."""
        z = unit(self.layers(h))
        return F.linear(z, unit(self.last).to(z.dtype))


class DINO(Method):
    """DINO: a student, f and g, and a teacher, EMA copies of both. (Weight decay stays as it is set.)

    The teacher is what a run keeps, since it is the better of the two (section 5.2 and figure 6).
    """

    any_side: ClassVar[bool] = True
    exports: ClassVar[str] = "slow_f"

    centre: Tensor
    done: Tensor

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add the head and the teacher; see `Config`."""
        super().__init__(f, config)
        self.g = Head(f.dim, config, getattr(config, "norm_head", False))
        self.slow_f, self.slow_g = ema_copy(f), ema_copy(self.g)
        self.tau_s, self.tau_t = config.student_temperature, config.teacher_temperature
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("done", torch.zeros(()))

    def views(self, views: Views) -> tuple[Views | View, ...]:
        """Two full views, blurred and solarised as BYOL does, and, if asked, small ones of smaller parts."""
        full = asymmetric(views)
        if not self.config.local_crops:
            return full
        part = replace(views, crop_min=min(0.05, views.crop_min), crop_max=views.crop_min)
        return (*full, *self.config.local_crops * [View(part, 96 / 224)])

    def frozen_at(self, progress: float) -> tuple[str, ...]:
        """Leave the last layer as it is at the start, where asked."""
        return ("g.last",) if progress < self.config.freeze_last_layer else ()

    def embed(self, batch: Batch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Turn every view into the student's answer x, and the full ones into the teacher's y."""
        full = torch.cat(batch.views[:2])
        sides = [full, torch.cat(batch.views[2:])] if len(batch.views) > 2 else [full]
        x = self.g(torch.cat([self.f(views) for views in sides]))
        with torch.no_grad():
            y = self.slow_g(self.slow_f(full))
        return x.chunk(len(batch.views)), y.chunk(2)

    def teacher_tau(self) -> Tensor:
        """Give the teacher's temperature, which rises during its warmup."""
        config = self.config
        warm = (self.done / max(config.teacher_temperature_warmup, 1e-9)).clamp(max=1)
        start: float = config.teacher_temperature_start
        return start + (self.tau_t - start) * warm

    def loss(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Loss:
        """Predict the teacher's answers to the full views from the student's to every other view."""
        kind = torch.promote_types(x[0].dtype, torch.float32)
        x, y = [view.to(kind) for view in x], [view.to(kind) for view in y]
        tau_t = self.teacher_tau()
        total, pairs = x[0].new_zeros(()), 0
        for t, target in enumerate(((view - self.centre) / tau_t).softmax(1).detach() for view in y):
            for s, view in enumerate(x):
                if s != t:
                    total = total - (target * (view / self.tau_s).log_softmax(1)).sum(1).mean()
                    pairs += 1
        mean = ((y[0] + y[1]) / 2).mean(0)
        return Loss({"cross_entropy": total / pairs}, {"y": y[0], "mean": mean})

    @torch.no_grad()
    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Move the centre (equation 4) and let the teacher follow."""
        mean = collectives.total(watched["mean"]) / distributed.world()
        self.centre.lerp_(mean.to(self.centre.dtype), 1 - self.config.centre)
        ema = cosine_momentum(self.config.ema, progress)
        ema_update(self.slow_f, self.f, ema)
        ema_update(self.slow_g, self.g, ema)
        self.done.fill_(progress)

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell how widely the teacher's answers are spread; near 0 is collapse."""
        return {"spread": spread(watched["y"])}


# The authors' code: its command for ResNet-50, and its defaults for vision transformers. Small views are of
# parts below --crop-min.
DINO.recipes = recipes(
    cpu={
        "head": (512, 128),
        "prototypes": 256,
        "ema": 0.99,
        "student_temperature": 0.05,
        "teacher_temperature": 0.04,
    },
    cifar={"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6},
    cifar_warmup_epochs=10,
    imagenet={
        "optimizer": "sgd",
        "lr": 0.03,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
        "teacher_temperature": 0.04,
        "prototypes": 65536,
        "local_crops": 8,
        "freeze_last_layer": 0.01,
        "crop_min": 0.14,
        **BYOL_COLOURS,
    },
    vit={
        "lr": 5e-4,
        "weight_decay": 0.04,
        "warmup": 10 / 300,
        "prototypes": 65536,
        "local_crops": 8,
        "freeze_last_layer": 1 / 300,
        "crop_min": 0.4,
        **BYOL_COLOURS,
    },
)
