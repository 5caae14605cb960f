"""The network of a classification: an encoder and a linear layer on its centred and scaled vectors."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batch import Batch
from ..methods.base import Loss
from ..models import Encoder
from . import soft_labels
from .neck import Neck
from .soft_labels import TaskTeacher
from .task_types import HeadExport, TaskNetwork
from .trainer import INPUT_NORM


class LinearHead(nn.Module):
    """A linear layer on centred and scaled vectors."""

    mean: Tensor
    scale: Tensor
    linear: nn.Linear

    def __init__(self, dim: int, classes: int, neck: Neck | None = None) -> None:
        """Start at 0, which gives every class the same probability; a neck comes before the layer."""
        super().__init__()
        self.neck = neck
        dim = dim if neck is None else neck.width
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.tensor(1.0))
        self.linear = nn.Linear(dim, classes)
        for weight in self.linear.parameters():
            nn.init.zeros_(weight)

    def forward(self, h: Tensor) -> Tensor:
        """Turn (n, dim) vectors into (n, classes) logits."""
        h = h if self.neck is None else self.neck(h)
        logits: Tensor = self.linear((h.float() - self.mean) * self.scale)
        return logits

    @torch.no_grad()
    def centre(self, h: Tensor) -> None:
        """Centre and scale by vectors (n, dim): one grid of learning rates then fits every encoder."""
        self.mean.copy_(h.mean(0))
        length = float((h - self.mean).square().sum(1).mean().sqrt())
        self.scale.fill_(INPUT_NORM / length if length > 0 else 1.0)


class Classifier(TaskNetwork):
    """An encoder and a linear head, trained by cross-entropy; of several labels by one for each."""

    head: LinearHead

    def __init__(
        self,
        f: Encoder,
        classes: int,
        *,
        frozen: bool,
        many: bool,
        weights: Tensor | None = None,
        neck: Neck | None = None,
        teacher: TaskTeacher | None = None,
    ) -> None:
        """Put an untrained head on an encoder; `weights` (classes,) say how much each counts."""
        super().__init__(f.requires_grad_(not frozen), None)
        self.frozen, self.many, self.weights = frozen, many, weights
        # In a tuple, which keeps its weights out of this network's state.
        self.taught_by = None if teacher is None else (teacher.net, teacher.temperature)
        self.head = LinearHead(f.dim, classes, None if neck is None else neck.requires_grad_(not frozen))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.f.eval()
            if self.head.neck is not None:
                self.head.neck.eval()
        return self

    def forward(self, batch: Batch) -> Loss:
        """Give the cross-entropy, in float32."""
        assert batch.labels is not None
        h = self.f(torch.cat(batch.views))
        with torch.autocast(h.device.type, enabled=False):
            logits = self.head(h)
            if self.taught_by is not None:
                return Loss({"cross_entropy": self._taught(logits, batch)})
            weights = None if self.weights is None else self.weights.to(logits.device)
            if self.many:
                loss = F.binary_cross_entropy_with_logits(logits, batch.labels, pos_weight=weights)
            else:
                loss = F.cross_entropy(logits, batch.labels, weights)
            return Loss({"cross_entropy": loss})

    def _taught(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compare with what the teacher says of the same crops."""
        assert batch.labels is not None and self.taught_by is not None
        net, temperature = self.taught_by
        with torch.no_grad():
            said = net.to(logits.device)(torch.cat(batch.views).float())
        return soft_labels.loss(logits, said.float(), batch.labels, temperature)


class Probabilities(nn.Module):
    """Images to calibrated probabilities."""

    def __init__(self, network: Classifier, temperature: float) -> None:
        """Take a trained network."""
        super().__init__()
        self.f, self.head, self.temperature, self.many = network.f, network.head, temperature, network.many

    def forward(self, x: Tensor) -> Tensor:
        """Give (n, classes) of (n, 3, side, side)."""
        logits = self.head(self.f(x)) / self.temperature
        return logits.sigmoid() if self.many else logits.softmax(1)


def exported(network: Classifier, side: int, temperature: float, *, many: bool) -> HeadExport:
    """Describe the network for other tools.

    Args:
        network: trained.
        side: of its images.
        temperature: by which logits are divided.
        many: whether an image may have several labels.
    """
    one = "each label, by itself" if many else "each class; they sum to 1"
    return HeadExport(
        Probabilities(network, temperature),
        (side, side),
        0,
        ("probabilities",),
        (f"`probabilities` (n, classes), float32: the calibrated probability of {one}.",),
        "image-classification",
        square=True,
        facts={"several_labels": many},
    )
