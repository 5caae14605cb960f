"""Distillation: give views of an image the vector that a teacher, an encoder already trained, gives the image.

Zhiyuan Fang, Jianfeng Wang, Lijuan Wang, Lei Zhang, Yezhou Yang and Zicheng Liu, "SEED: Self-supervised
distillation for visual representation", ICLR 2021 (arXiv:2101.04731), for the neighbours. The cosine is the plain
form of it, with which the paper's ablation compares.

Choose it when there is an encoder that is good on images like yours, such as one with ImageNet weights on
photographs, and you want a small and fast one for them. No labels are needed.

Shapes: N images, one view; z (N, T) from the encoder f and a head g, of length 1; t (N, T), what the teacher makes
of the N images, of length 1; queue (K, T), what it made of images of earlier steps.

Equations 1 to 4, as plain loops; the cosine has the weight a, the neighbours 1 - a:

    def loss(z, t, queue, a, student_temperature, teacher_temperature):
        total = 0.0
        for i in range(len(z)):
            total += a * (1 - dot(z[i], t[i]))
            others = [t[i], *queue]
            p = [exp(dot(t[i], d) / teacher_temperature) for d in others]
            q = [exp(dot(z[i], d) / student_temperature) for d in others]
            for j in range(len(others)):
                share = p[j] / sum(p)
                total += (1 - a) * share * (log(share) - log(q[j] / sum(q)))
        return total / len(z)

(The paper leaves out log(share), which no weight changes: with it, 0 is the best loss.)

(The authors' teacher sees the student's view. Here it sees the whole image, once, in its own size and
preprocessing, since on a CPU it is slower than the student. `--teacher-input view` is the paper's way.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import collectives, distributed
from ..core.config import setting
from ..images.view_settings import Views
from ..losses import unit
from ..models import Encoder, mlp
from ..models.queue import Queue
from .base import Batch, Expects, Loss, Method
from .recipes import recipes


class HasTeacherVectors(Protocol):
    """What is learnt from."""

    @property
    def encoder(self) -> Encoder:
        """The encoder, in eval mode and without gradients."""
        ...

    @property
    def size(self) -> int:
        """Side of its images, in pixels."""
        ...


@dataclass(frozen=True)
class Config:
    """Distillation's own settings."""

    teacher: str | None = setting(
        None,
        "encoder to learn from: a run's folder, known, timm:NAME, or a model's folder",
        source="SEED, section 3.2",
    )
    teacher_input: str = setting(
        "image",
        "what the teacher sees: each whole image once, before training, or the student's view at every step",
        choices=("image", "view"),
        source="SEED, section 3.2: the view",
    )
    cosine: float = setting(
        0.5,
        "weight of the cosine with the teacher's vector; the neighbours have 1 minus that",
        low=0.0,
        high=1.0,
        source="measured by us, docs/decisions.md; SEED: 0",
    )
    head: tuple[int, ...] = setting(
        (512,),
        "widths of the head's hidden layers; the last layer is as wide as the teacher's vectors",
        low=1,
        source="SEED, section 4.1: a head of two layers",
    )
    queue: int = setting(
        4096, "the teacher's vectors of earlier steps that are neighbours", low=1, source="SEED: 65,536"
    )
    student_temperature: float = setting(
        0.2, "temperature of the student's similarities", low=0.003, source="SEED, section 4.1"
    )
    teacher_temperature: float = setting(
        0.05, "temperature of the teacher's similarities", low=0.003, source="chosen by us; SEED: 0.01"
    )


class Distill(Method):
    """Distillation: f, a head g, and the vectors of a teacher."""

    modality: ClassVar[str | None] = "images"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "targets"})
    any_side: ClassVar[bool] = True

    def __init__(self, f: Encoder, config: Config, teacher: HasTeacherVectors) -> None:
        """Add the head and the queue; see `Config`.

        Args:
            f: the encoder.
            config: the method's own settings.
            teacher: what is learnt from.
        """
        super().__init__(f, config)
        width = teacher.encoder.dim
        self.g = mlp(f.dim, *config.head, width, last_norm=False)
        self.memory = Queue(config.queue, width)
        self.a = config.cosine
        self._teacher = (teacher,)  # no part of what is trained, saved or moved

    @classmethod
    def requires(cls, config: Config) -> frozenset[str]:
        """A teacher, and its vectors of whole images unless it sees the views."""
        return cls.needs if config.teacher_input == "image" else frozenset({"teacher"})

    @classmethod
    def expects(cls, config: Config) -> Expects:
        """Judge by how often an image's own teacher's vector is the nearest: views are weak on purpose."""
        return Expects(task="teacher_found", chance=None, at_chance="raise --lr, and train longer")

    @property
    def queue(self) -> Tensor:
        """The rows of the queue, (K, T)."""
        return self.memory.rows

    def views(self, views: Views) -> tuple[Views, ...]:
        """One view an image."""
        return (views,)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Turn the view into z, and take t from the batch or from the teacher."""
        (x,) = batch.views
        t = self._asked(x) if batch.targets is None else batch.targets
        return unit(self.g(self.f(x))), F.normalize(t, dim=1)

    @torch.no_grad()
    def _asked(self, x: Tensor) -> Tensor:
        """Let the teacher see the views, at its own size: (N, T)."""
        (teacher,), side = self._teacher, self._teacher[0].size
        x = F.interpolate(x.float(), (side, side), mode="bicubic", antialias=True, align_corners=False)
        found: Tensor = teacher.encoder.to(x.device)(x.clamp(0, 1))
        return found.float()

    def loss(self, z: Tensor, t: Tensor) -> Loss:
        """Compare z with t itself, and both with the queue: equations 1 to 4."""
        kind = torch.promote_types(z.dtype, torch.float32)
        z, t, queue = z.to(kind), t.to(kind), self.queue.to(kind)
        with torch.autocast(z.device.type, enabled=False):
            own = (z * t).sum(1)  # (N,)
            terms = {"cosine": self.a * (1 - own).mean()}
            if self.a < 1:
                told = torch.cat([(t * t).sum(1, keepdim=True), t @ queue.T], 1)  # (N, 1 + K)
                said = torch.cat([own[:, None], z @ queue.T], 1)
                p = (told / self.config.teacher_temperature).log_softmax(1)
                q = (said / self.config.student_temperature).log_softmax(1)
                terms["neighbours"] = (1 - self.a) * (p.exp() * (p - q)).sum(1).mean()
        return Loss(terms, {"z": z, "t": t, "own": own})

    def after_step(self, progress: float, watched: Mapping[str, Tensor]) -> None:
        """Put the teacher's vectors into the queue."""
        self.memory.push(watched["t"])

    def metrics(self, watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tell the mean cosine with the teacher's vectors, and how often the own one is the nearest."""
        z, t, world = watched["z"].float(), watched["t"].float(), distributed.world()
        first = ((z @ t.T).argmax(1) == torch.arange(len(z), device=z.device)).float().mean()
        return {
            "teacher_cosine": collectives.total(watched["own"].mean()) / world,
            "teacher_found": collectives.total(first) / world,
        }


# A vector of the whole image: views that show most of it, in its own colours.
_VIEWS = {
    "crop_min": 0.5,
    "colour": "keep",
    "jitter": 0.0,
    "saturation": 0.1,
    "hue": 0.0,
    "grayscale": 0.0,
    "blur": 0.0,
}
Distill.recipes = recipes(cpu={**_VIEWS, "early_size": 0.75}, cifar=_VIEWS, imagenet=_VIEWS, vit=_VIEWS)
