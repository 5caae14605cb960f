"""iBOT: DINO, which besides predicts the EMA copy's answers for masked patches from the others.

Jinghao Zhou, Chen Wei, Huiyu Wang, Wei Shen, Cihang Xie, Alan Yuille and Tao Kong, "iBOT: image BERT pre-training with
online tokenizer", ICLR 2022 (arXiv:2111.07832). With `--koleo` and `--centring sinkhorn` the terms of Maxime Oquab
and others, "DINOv2: learning robust visual features without supervision", TMLR 2024 (arXiv:2304.07193).

Choose it when the encoder is a vision transformer, the run is long, and features of patches matter too, as for heat
maps and segmentation.

Shapes: N images, two views; x (N, K) outputs of the student for each view, some of whose T patches are masked; y (N, K)
outputs of the teacher for the whole views; x_p and y_p (N, T, K) the same for each patch; masked (N, T) of each view; h
(N, D) the student's features; the centres (K).

The two cross-entropies, with DINOv2's KoLeo term, as plain loops over the two views:

    def loss(x, y, x_p, y_p, masked, h, centre, patch_centre, tau_s, tau_t, patch_weight, koleo):
        def told(student, teacher, centre):
            sharp = [exp((a - c) / tau_t) for a, c in zip(teacher, centre)]
            below = sum(exp(a / tau_s) for a in student)
            return -sum(p / sum(sharp) * log(exp(a / tau_s) / below) for p, a in zip(sharp, student))

        def length(z):
            return sqrt(dot(z, z))

        total, n = 0.0, len(x[0])
        for i in range(n):
            total += (told(x[1][i], y[0][i], centre) + told(x[0][i], y[1][i], centre)) / (2 * n)
            for v in range(2):
                hidden = [t for t in range(len(masked[v][i])) if masked[v][i][t]]
                for t in hidden:
                    total += patch_weight * told(x_p[v][i][t], y_p[v][i][t], patch_centre) / (2 * n * len(hidden))
                z = [row / length(row) for row in h[v]]
                nearest = min(length(z[i] - z[j]) for j in range(n) if j != i)
                total -= koleo * log(nearest) / (2 * n)
        return total

(The paper masks tokens; a patch of learned pixels becomes a token
where patches are embedded. It masks blocks of patches; here each patch by chance. With `--centring sinkhorn` outputs are used
evenly over all patches of a view, each view by itself; DINOv2 does so over the masked patches of both alone.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import collectives, distributed, rng
from ..core.config import setting
from ..images.view_settings import Views
from ..losses import unit
from ..models import Encoder
from .base import Batch, Loss
from .byol import asymmetric
from .dino import DINO
from .recipes import BYOL_COLOURS, recipes
from .swav import NARROW, codes


@dataclass(frozen=True)
class Config:
    """iBOT's own settings: DINO's, and those of masked patches."""

    patch_weight: float = setting(1.0, "weight of the masked patches", low=0.0, source="iBOT's code")
    masked: float = setting(
        0.5,
        "largest share of patches that is masked; of half of the views none, of the others from 0.1 on",
        low=0.1,
        high=0.9,
        source="DINOv2's code: 0.1 to 0.5 of half of the images",
    )
    koleo: float = setting(
        0.0,
        "weight of the term that spreads features evenly",
        low=0.0,
        source="DINOv2's code: 0.1 of the sum over two views, 0.2 of their mean as here",
    )
    centring: str = setting(
        "mean",
        "what keeps the teacher's answers apart: less their moving mean, or evenly used outputs in each batch",
        choices=("mean", "sinkhorn"),
        source="iBOT's code; DINOv2's code",
    )
    student_temperature: float = setting(0.1, "temperature of the student", low=0.003, source="iBOT's code")
    teacher_temperature: float = setting(
        0.07, "temperature of the teacher after the warmup", low=0.003, source="iBOT's code"
    )
    teacher_temperature_start: float = setting(
        0.04, "temperature of the teacher at the start", low=0.003, source="iBOT's code"
    )
    teacher_temperature_warmup: float = setting(
        0.1, "share of the training in which the teacher's temperature rises", low=0.0, high=1.0,
        source="iBOT's code: 30 of 300 epochs",
    )  # fmt: skip
    ema: float = setting(
        0.996,
        "momentum of the teacher at the start; it rises to 1",
        low=0.0,
        high=1.0,
        source="iBOT's code",
    )
    centre: float = setting(0.9, "momentum of the centres", low=0.0, high=1.0, source="iBOT's code")
    prototypes: int = setting(8192, "width of the output, K", low=2, source="iBOT's code")
    head: tuple[int, ...] = setting(
        (2048, 2048, 256), "widths of the head's layers; the last output is scaled to length 1", low=1,
        source="iBOT's code",
    )  # fmt: skip
    norm_head: bool = setting(
        True,
        "batch norm in the head; without it a small transformer that starts from random weights collapses at once",
        source="iBOT's code has it as an option",
    )
    freeze_last_layer: float = setting(
        0.0, "share of the training at the start in which the last layer is frozen", low=0.0, high=1.0,
        source="iBOT's code: one epoch",
    )  # fmt: skip


class IBOT(DINO):
    """iBOT: DINO's student and teacher, of which the student sees some patches masked; one head for both tasks."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    modality: ClassVar[str | None] = "images"

    patch_centre: Tensor

    def __init__(self, f: Encoder, config: Config = Config()) -> None:
        """Add DINO's parts, the learned patch and a second centre; see `Config`."""
        super().__init__(f, config)  # type: ignore[arg-type]
        side = f.patch
        self.hide = nn.Parameter(0.5 + 0.02 * torch.randn(3, side, side))
        self.register_buffer("patch_centre", torch.zeros(config.prototypes))
        self.patch_weight, self.koleo = config.patch_weight, config.koleo
        self.sinkhorn = config.centring == "sinkhorn"

    def views(self, views: Views) -> tuple[Views, ...]:
        """Two full views, blurred and solarised as BYOL does."""
        return asymmetric(views)

    def embed(self, batch: Batch) -> tuple[Any, ...]:
        """Mask some patches of each view for the student, and ask it and the teacher about image and patches."""
        side = self.hide.shape[1]
        drawn, seen = [], []
        for number, x in enumerate(batch.views):
            shape = (x.shape[2] // side, x.shape[3] // side)
            hidden = masks(batch, shape[0] * shape[1], self.config.masked, f"masks {number}").to(x.device)
            large = F.interpolate(hidden.view(-1, 1, *shape).to(x.dtype), scale_factor=side, mode="nearest")
            seen.append(x * (1 - large) + self.hide.repeat(1, *shape).to(x.dtype) * large)
            drawn.append(hidden)
        h, patches = whole_and_patches(self.f, torch.cat(seen))
        x, x_p = self.g(h), self.g(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        with torch.no_grad():
            slow_h, slow_patches = whole_and_patches(self.slow_f, torch.cat(batch.views))  # type: ignore[arg-type]
            y = self.slow_g(slow_h)
            y_p = self.slow_g(slow_patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        return x.chunk(2), y.chunk(2), x_p.chunk(2), y_p.chunk(2), tuple(drawn), h.chunk(2)

    def loss(  # type: ignore[override]
        self,
        x: Sequence[Tensor],
        y: Sequence[Tensor],
        x_p: Sequence[Tensor],
        y_p: Sequence[Tensor],
        masked: Sequence[Tensor],
        h: Sequence[Tensor],
    ) -> Loss:
        """Predict the teacher's answers to one view from the other, and to masked patches from the rest."""
        kind = torch.promote_types(x[0].dtype, torch.float32)
        x, y, x_p, y_p = ([view.to(kind) for view in views] for views in (x, y, x_p, y_p))
        tau = self.teacher_tau()
        image, patch = x[0].new_zeros(()), x[0].new_zeros(())
        for v in range(2):
            target = self._sharp(y[v], self.centre, tau)
            image = image - (target * (x[1 - v] / self.tau_s).log_softmax(1)).sum(1).mean() / 2
            target = self._sharp(y_p[v].flatten(0, 1), self.patch_centre, tau).view_as(y_p[v])
            errors = -(target * (x_p[v] / self.tau_s).log_softmax(2)).sum(2) * masked[v]
            patch = patch + (errors.sum(1) / masked[v].sum(1).clamp(min=1)).mean() / 2
        terms = {"image": image, "patch": self.patch_weight * patch}
        if self.koleo:
            terms["koleo"] = self.koleo * (koleo(h[0]) + koleo(h[1])) / 2
        means = {"mean": ((y[0] + y[1]) / 2).mean(0), "patch_mean": ((y_p[0] + y_p[1]) / 2).mean((0, 1))}
        return Loss(terms, {"y": y[0], **means})

    def _sharp(self, y: Tensor, centre: Tensor, tau: Tensor) -> Tensor:
        """Make probabilities of the teacher's answers, (n, K), which get no gradient."""
        if self.sinkhorn:
            least = min(self.tau_t, self.config.teacher_temperature_start)
            return codes(y / tau, 1.0, 3, narrow=least < NARROW)
        return ((y - centre) / tau).softmax(1).detach()

    @torch.no_grad()
    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Move the centres, and let the teacher follow."""
        super().after_step(progress, watched)
        mean = collectives.total(watched["patch_mean"]) / distributed.world()
        self.patch_centre.lerp_(mean.to(self.patch_centre.dtype), 1 - self.config.centre)


def masks(batch: Batch, patches: int, most: float, name: str) -> Tensor:
    """Draw which patches are masked: of half of the images none, of the others a share from 0.1 to `most`, never all.

    Args:
        batch: whose key and rows name the draws.
        patches: of an image.
        most: the largest share.
        name: of the draw.

    Returns:
        (n, patches) bool on the CPU.
    """
    u = rng.uniform(rng.fold(batch.key, name), batch.rows, patches + 2)
    count = np.where(u[:, 0] < 0.5, 0, np.rint((0.1 + (most - 0.1) * u[:, 1]) * patches))
    count = np.minimum(count, patches - 1)
    place = u[:, 2:].argsort(1, kind="stable").argsort(1, kind="stable")
    return torch.from_numpy(place < count[:, None])


def whole_and_patches(f: Encoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Encode images: (n, d), by the class token, or the mean where there is none, and (n, t, d) of patches."""
    tokens = f.tokens(x)
    return (tokens.prefix[:, 0] if tokens.prefix.shape[1] else tokens.patches.mean(1)), tokens.patches


def koleo(h: Tensor) -> Tensor:
    """Compute minus the mean logarithm of the distance to the nearest other row, of unit rows of all processes.

    Args:
        h: (n, d), this process's.

    Source:
        Sablayrolles et al. 2019, "Spreading vectors for similarity search".
    """
    z = unit(h)
    everyone = collectives.gather(z)
    own = torch.arange(len(z), device=z.device) + distributed.rank() * len(z)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        likeness = z @ everyone.T  # exact, since where features are near a collapse all rows are alike
        likeness[torch.arange(len(z), device=z.device), own] = -2
        nearest = likeness.argmax(1)
    return -(z - everyone[nearest]).norm(dim=1).clamp(min=1e-8).log().mean()


_SMALL = {"encoder": "vit_w192_d6", "head": (512, 128), "prototypes": 512, "ema": 0.99}
_LARGE = {
    "norm_head": False,
    "optimizer": "adamw",
    "lr": 5e-4,
    "lr_scaling": "linear",
    "weight_decay": 0.04,
    "warmup": 10 / 300,
    "freeze_last_layer": 1 / 300,
    "crop_min": 0.14,
    **BYOL_COLOURS,
}
IBOT.recipes = recipes(
    cpu={**_SMALL, "batch_size": 128},
    cifar={**_SMALL, "optimizer": "adamw", "lr": 5e-4, "lr_scaling": "linear", "weight_decay": 0.04},
    imagenet={**_LARGE, "encoder": "vit_small_patch16_224"},
    vit=_LARGE,
)
